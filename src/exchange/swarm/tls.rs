//! TLS as libp2p has it, with the cipher first that the processor is fastest at.
//!
//! libp2p's own settings put ChaCha20-Poly1305 first, which takes several times what AES does on a processor
//! with instructions for that. Certificates are made and read by libp2p; what they must be is said in spec 06.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite, FutureExt as _};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

/// Bytes that are read from a socket at a time: rustls asks for a quarter of a record, each with a call.
const READ_LEN: usize = 64 * 1024;
/// Names of the protocol in the handshake.
const ALPN: &[u8] = b"libp2p";

/// What passes over a connection that is safe.
pub(super) type Output<C> = TlsStream<BufReader<C>>;

/// Agrees with a peer on TLS, and on who it is.
#[derive(Clone)]
pub(super) struct Upgrade {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

/// Why a connection cannot be made safe.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No certificate can be made of the key.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] certificate::GenError),
    /// The settings contradict each other, or the peer's certificate is none.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The handshake failed.
    #[error("{0}")]
    Handshake(#[from] std::io::Error),
}

impl Upgrade {
    pub(super) fn new(key: &Keypair) -> Result<Self, Error> {
        let provider = Arc::new(provider());
        let (certificate, private) = certificate::generate(key)?;
        let private = provider.key_provider.load_private_key(private)?;
        let certified = CertifiedKey::new(vec![certificate], private);
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let proof = Arc::new(Proof);
        let versions = [&rustls::version::TLS13];
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(Arc::clone(&proof) as _)
            .with_cert_resolver(Arc::clone(&resolver) as _);
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(proof)
            .with_client_cert_resolver(resolver);
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }
}

fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256 as AES_128, TLS13_AES_256_GCM_SHA384 as AES_256,
        TLS13_CHACHA20_POLY1305_SHA256 as CHACHA,
    };
    let cipher_suites =
        if has_aes() { vec![AES_128, AES_256, CHACHA] } else { vec![CHACHA, AES_128, AES_256] };
    CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() }
}

/// Tells whether the processor has instructions for AES.
#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

/// The same.
#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

/// Of others nothing is known.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

impl UpgradeInfo for Upgrade {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/tls/1.0.0")
    }
}

impl<C> InboundConnectionUpgrade<C> for Upgrade
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Output<C>);
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Output, Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let stream = TlsStream::from(self.acceptor.accept(buffered(socket)).await?);
            Ok((peer(&stream)?, stream))
        }
        .boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Upgrade
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Output<C>);
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Output, Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            // An address, not a name, so that none is told to the peer (spec 06).
            let nobody = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
            let stream = TlsStream::from(self.connector.connect(nobody, buffered(socket)).await?);
            Ok((peer(&stream)?, stream))
        }
        .boxed()
    }
}

fn buffered<C: AsyncRead>(socket: C) -> BufReader<C> {
    BufReader::with_capacity(READ_LEN, socket)
}

/// Returns who a peer has proved to be.
fn peer<C>(stream: &TlsStream<C>) -> Result<PeerId, rustls::Error> {
    match stream.get_ref().1.peer_certificates() {
        Some([certificate]) => read(certificate),
        _ => Err(rustls::Error::NoCertificatesPresented),
    }
}

/// Returns the peer whose key has signed a certificate's own key.
fn read(certificate: &CertificateDer<'_>) -> Result<PeerId, rustls::Error> {
    certificate::parse(certificate).map(|parsed| parsed.peer_id()).map_err(bad)
}

fn bad(_: impl std::error::Error) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::BadEncoding)
}

/// What proves a peer: one certificate, signed by itself, with a key of libp2p in it.
#[derive(Debug)]
struct Proof;

impl Proof {
    fn check(
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(rustls::Error::General("more than one certificate".to_owned()));
        }
        read(certificate).map(drop)
    }

    fn signed(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let certificate = certificate::parse(certificate).map_err(bad)?;
        certificate
            .verify_signature(signed.scheme, message, signed.signature())
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadSignature))?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// The same as libp2p's own, the best one first.
    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}

/// TLS 1.2 is never agreed on.
fn too_old() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("TLS before 1.3".to_owned()))
}

impl ServerCertVerifier for Proof {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signed(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Proof {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signed(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

#[cfg(test)]
mod tests {
    use libp2p::tcp::tokio::TcpStream;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let called = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (caller, accepted) = futures::future::join(called, listener.accept()).await;
        (TcpStream(caller.unwrap()), TcpStream(accepted.unwrap().0))
    }

    /// Has two sides agree; returns who each says the other is, and the cipher.
    async fn agree<O, I, A, B>(caller: O, called: I) -> (PeerId, PeerId, rustls::CipherSuite)
    where
        O: OutboundConnectionUpgrade<TcpStream, Output = (PeerId, TlsStream<A>)>,
        I: InboundConnectionUpgrade<TcpStream, Output = (PeerId, TlsStream<B>)>,
        O: UpgradeInfo<Info = &'static str>,
        I: UpgradeInfo<Info = &'static str>,
        O::Error: std::fmt::Debug,
        I::Error: std::fmt::Debug,
    {
        let (one, other) = pair().await;
        let outbound = caller.upgrade_outbound(one, "/tls/1.0.0");
        let inbound = called.upgrade_inbound(other, "/tls/1.0.0");
        let (outbound, inbound) = futures::future::join(outbound, inbound).await;
        let ((called, stream), (caller, _)) = (outbound.unwrap(), inbound.unwrap());
        let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
        (called, caller, suite)
    }

    #[tokio::test]
    async fn it_agrees_with_its_like_on_aes_and_with_libp2ps_own_on_who_each_is() {
        let (one, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let ids = (other.public().to_peer_id(), one.public().to_peer_id());
        let ours = |key: &Keypair| Upgrade::new(key).unwrap();
        let theirs = |key: &Keypair| libp2p::tls::Config::new(key).unwrap();
        let (called, caller, suite) = agree(ours(&one), ours(&other)).await;
        assert_eq!((called, caller), ids);
        assert_eq!(suite == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256, has_aes(), "{suite:?}");
        let (called, caller, _) = agree(ours(&one), theirs(&other)).await;
        assert_eq!((called, caller), ids);
        let (called, caller, _) = agree(theirs(&one), ours(&other)).await;
        assert_eq!((called, caller), ids);
    }

    #[test]
    fn a_certificate_of_anybody_elses_making_proves_nobody() {
        let (certificate, _) = certificate::generate(&Keypair::generate_ed25519()).unwrap();
        assert!(Proof::check(&certificate, &[]).is_ok());
        assert!(Proof::check(&certificate, std::slice::from_ref(&certificate)).is_err(), "two");
        let mut broken = certificate.to_vec();
        let last = broken.len() - 1;
        broken[last] ^= 1;
        assert!(Proof::check(&broken.into(), &[]).is_err(), "a signature that is none");
        assert!(Proof::check(&vec![0x30, 0].into(), &[]).is_err(), "no certificate");
    }
}
