//! CIDs in binary and text (spec 01 §1–2): strict parsing, names of codecs, bases.
//!
//! The type is the `cid` crate's; parsing is ours, because the crate skips text before `/ipfs/`
//! and accepts bytes after the CID.

use multibase::Base;

use super::hash::DIGEST_LEN_MAX;

/// A content identifier: version, codec, multihash of at most 128 digest bytes.
pub type Cid = cid::CidGeneric<DIGEST_LEN_MAX>;

/// What of a CID proves bytes; blocks are the same whatever codec they are read with.
pub type Multihash = multihash::Multihash<DIGEST_LEN_MAX>;

/// Longest unsigned varint in bytes (spec 01 §1: 63 bits). The `unsigned_varint` crate reads a tenth
/// byte and drops the bits of it that do not fit, so two spellings would mean one number.
pub const VARINT_LEN_MAX: usize = 9;

/// Longest text in bytes that is tried as a CID: 168 bytes in base 2 would be 1,345 characters;
/// every base in use is base 16 or denser.
const CID_TEXT_LEN_MAX: usize = 400;

/// Codes of the codecs that cidfs knows by name (multicodec table).
pub mod codecs {
    /// Plain bytes.
    pub const RAW: u64 = 0x55;
    /// MerkleDAG protobuf.
    pub const DAG_PB: u64 = 0x70;
    /// MerkleDAG CBOR.
    pub const DAG_CBOR: u64 = 0x71;
    /// libp2p public key (IPNS names).
    pub const LIBP2P_KEY: u64 = 0x72;
    /// MerkleDAG JSON.
    pub const DAG_JSON: u64 = 0x0129;
    /// CBOR without links.
    pub const CBOR: u64 = 0x51;
    /// JSON without links.
    pub const JSON: u64 = 0x0200;
}

const CODEC_NAMES: &[(&str, u64)] = &[
    ("raw", codecs::RAW),
    ("dag-pb", codecs::DAG_PB),
    ("dag-cbor", codecs::DAG_CBOR),
    ("libp2p-key", codecs::LIBP2P_KEY),
    ("dag-json", codecs::DAG_JSON),
    ("cbor", codecs::CBOR),
    ("json", codecs::JSON),
    ("git-raw", 0x78),
    ("dag-jose", 0x85),
];

/// Why text or bytes are not a CID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidError {
    /// The text is no CID.
    #[error("\"{text}\" is not a CID: {reason}")]
    Text {
        /// What was given, cut to a sane length.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The bytes are no CID.
    #[error("not a CID: {0}")]
    Bytes(&'static str),
    /// The digest is longer than any that is accepted here; others may take it for a CID.
    #[error("not an acceptable CID: digest over {DIGEST_LEN_MAX} bytes")]
    DigestTooLong,
    /// Neither a multibase name nor a prefix character.
    #[error("unknown multibase \"{0}\" (try base32, base36, base58btc or base16)")]
    Base(String),
}

/// Returns the name of a codec in the multicodec table, or its code in hex.
pub fn codec_name(code: u64) -> String {
    CODEC_NAMES
        .iter()
        .find(|(_, known)| *known == code)
        .map_or_else(|| format!("0x{code:x}"), |(name, _)| (*name).to_owned())
}

/// Returns the code of a codec in the multicodec table, `None` for a name that is not known here.
pub fn codec_by_name(name: &str) -> Option<u64> {
    CODEC_NAMES.iter().find(|(known, _)| *known == name).map(|(_, code)| *code)
}

/// Parses a CID from text: a CIDv0 (`Qm…`, 46 characters) or any multibase CIDv1.
///
/// # Errors
/// [`CidError::Text`] with the reason.
pub fn cid_from_text(text: &str) -> Result<Cid, CidError> {
    let error = |reason| CidError::Text { text: text.chars().take(80).collect(), reason };
    if text.len() > CID_TEXT_LEN_MAX {
        return Err(error("too long"));
    }
    if text.len() == 46 && text.starts_with("Qm") {
        let bytes = Base::Base58Btc.decode(text).map_err(|_| error("bad base58 digit"))?;
        return cid_from_bytes(&bytes).map_err(|_| error("not a sha2-256 multihash"));
    }
    let (_, bytes) = multibase::decode(text).map_err(|_| error("no valid multibase text"))?;
    match bytes.first() {
        Some(0x12) => Err(error("a CIDv0 has no multibase prefix")),
        _ => cid_from_bytes(&bytes).map_err(|_| error("malformed bytes")),
    }
}

/// Parses a CID that takes up all of `bytes`.
///
/// # Errors
/// [`CidError::Bytes`] with the reason.
pub fn cid_from_bytes(bytes: &[u8]) -> Result<Cid, CidError> {
    let (cid, used) = cid_prefix(bytes)?;
    if used == bytes.len() { Ok(cid) } else { Err(CidError::Bytes("bytes after the CID")) }
}

/// Parses the CID at the front of `bytes` and returns it with its length in bytes.
///
/// # Errors
/// [`CidError::Bytes`] with the reason.
pub fn cid_prefix(bytes: &[u8]) -> Result<(Cid, usize), CidError> {
    let mut rest = bytes;
    if bytes.starts_with(&[0x12, 0x20]) {
        let hash = bytes.get(2..34).ok_or(CidError::Bytes("cut short"))?;
        let hash = multihash::Multihash::wrap(0x12, hash)
            .map_err(|_| CidError::Bytes("digest too long"))?;
        let cid = Cid::new_v0(hash).map_err(|_| CidError::Bytes("malformed CIDv0"))?;
        return Ok((cid, 34));
    }
    if uvarint(&mut rest)? != 1 {
        return Err(CidError::Bytes("version is neither 0 nor 1"));
    }
    let codec = uvarint(&mut rest)?;
    let code = uvarint(&mut rest)?;
    let len = usize::try_from(uvarint(&mut rest)?).unwrap_or(usize::MAX);
    if len > DIGEST_LEN_MAX {
        return Err(CidError::DigestTooLong);
    }
    let digest = rest.get(..len).ok_or(CidError::Bytes("cut short"))?;
    let hash = multihash::Multihash::wrap(code, digest).map_err(|_| CidError::DigestTooLong)?;
    Ok((Cid::new_v1(codec, hash), bytes.len() - rest.len() + len))
}

fn uvarint(rest: &mut &[u8]) -> Result<u64, CidError> {
    let front = &rest[..rest.len().min(VARINT_LEN_MAX)];
    let (value, after) =
        unsigned_varint::decode::u64(front).map_err(|_| CidError::Bytes("bad varint"))?;
    *rest = &rest[front.len() - after.len()..];
    Ok(value)
}

/// Returns the multibase named by a prefix character or by its name (`base32`, `b`, …).
///
/// # Errors
/// [`CidError::Base`].
pub fn parse_base(name: &str) -> Result<Base, CidError> {
    let unknown = || CidError::Base(name.to_owned());
    let mut chars = name.chars();
    if let (Some(code), None) = (chars.next(), chars.next()) {
        return Base::from_code(code).map_err(|_| unknown());
    }
    Ok(match name {
        "base16" => Base::Base16Lower,
        "base16upper" => Base::Base16Upper,
        "base32" => Base::Base32Lower,
        "base32upper" => Base::Base32Upper,
        "base32hex" => Base::Base32HexLower,
        "base36" => Base::Base36Lower,
        "base36upper" => Base::Base36Upper,
        "base58btc" => Base::Base58Btc,
        "base58flickr" => Base::Base58Flickr,
        "base64" => Base::Base64,
        "base64url" => Base::Base64Url,
        "base64urlpad" => Base::Base64UrlPad,
        "base64pad" => Base::Base64Pad,
        _ => return Err(unknown()),
    })
}

/// Writes a CID in `base`; a CIDv0 keeps its own form, as kubo's `--cid-base` does.
pub fn encode_base(cid: &Cid, base: Base) -> String {
    match cid.version() {
        cid::Version::V0 => cid.to_string(),
        cid::Version::V1 => multibase::encode(base, cid.to_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V0: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";
    const V1: &str = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354";

    #[test]
    fn text_round_trips() {
        for text in [V0, V1, "bafkqaaa", "bafyaabakaieac"] {
            let cid = cid_from_text(text).unwrap();
            assert_eq!(cid.to_string(), text);
            assert_eq!(cid_from_bytes(&cid.to_bytes()).unwrap(), cid);
        }
        let v1 = cid_from_text(V1).unwrap();
        for base in ["base16", "base36", "base58btc", "base64url", "z"] {
            let text = encode_base(&v1, parse_base(base).unwrap());
            assert_eq!(cid_from_text(&text).unwrap(), v1, "{text}");
        }
    }

    #[test]
    fn what_is_no_cid_is_refused() {
        let v0_with_prefix =
            multibase::encode(Base::Base58Btc, cid_from_text(V0).unwrap().to_bytes());
        let long = "b".repeat(CID_TEXT_LEN_MAX + 1);
        for text in
            ["", "Qm", "b", "x", "/ipfs/bafkqaaa", &V0[1..], &V1[..20], &v0_with_prefix, &long]
        {
            assert!(cid_from_text(text).is_err(), "{text}");
        }
        for bytes in
            [&[][..], &[1], &[1, 0x55, 0x12, 0x20], &[2, 0x55, 0, 0], &[0x81, 0, 0x55, 0, 0]]
        {
            assert!(cid_from_bytes(bytes).is_err(), "{bytes:?}");
        }
        assert!(cid_from_bytes(&[1, 0x55, 0, 0, 9]).is_err(), "bytes after the CID");
        assert!(cid_prefix(&[1, 0x55, 0, 0, 9]).is_ok());
        let mut over = vec![1, 0x55, 0, 0x81, 1];
        over.extend([b'A'; 129]);
        assert_eq!(cid_from_bytes(&over), Err(CidError::DigestTooLong), "identity over 128 bytes");
        let tenth_byte =
            [1, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x86, 0x74, 0x12, 0x00];
        assert!(cid_prefix(&tenth_byte).is_err(), "a codec of more than 63 bits");
    }
}
