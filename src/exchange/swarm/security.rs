//! TLS or Noise, whichever both sides speak; TLS if there is a choice.

use futures::future::{BoxFuture, Either};
use futures::{AsyncRead, AsyncWrite, FutureExt as _, TryFutureExt as _};
use libp2p::PeerId;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, SelectUpgrade};
use libp2p::noise;

use super::tls;

type Both = SelectUpgrade<tls::Upgrade, noise::Config>;

/// Agrees with a peer on one of them, and on who it is.
#[derive(Clone)]
pub(super) struct Upgrade(Both);

impl Upgrade {
    pub(super) fn new(tls: tls::Upgrade, noise: noise::Config) -> Self {
        Self(SelectUpgrade::new(tls, noise))
    }
}

impl UpgradeInfo for Upgrade {
    type Info = <Both as UpgradeInfo>::Info;
    type InfoIter = <Both as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C> InboundConnectionUpgrade<C> for Upgrade
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Either<tls::Output<C>, noise::Output<C>>);
    type Error = <Both as InboundConnectionUpgrade<C>>::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, chosen: Self::Info) -> Self::Future {
        self.0.upgrade_inbound(socket, chosen).map_ok(Either::factor_first).boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Upgrade
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Either<tls::Output<C>, noise::Output<C>>);
    type Error = <Both as OutboundConnectionUpgrade<C>>::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, chosen: Self::Info) -> Self::Future {
        self.0.upgrade_outbound(socket, chosen).map_ok(Either::factor_first).boxed()
    }
}
