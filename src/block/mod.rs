//! Content addresses and the bytes they prove: `Cid`, the hash allow-list, and `Block`.
//!
//! The one promise of this layer: **a [`Block`] whose bytes were not hashed against its CID cannot
//! exist.** Everything from disks, peers and archives stays plain bytes until [`Block::verify`]
//! accepts it. This layer knows no codec, does no I/O and never recurses.

mod buffers;
mod cid;
mod hash;

use std::ops::Range;

use bytes::Bytes;

pub use self::buffers::{Buffer, Buffers};
pub use self::cid::{
    Cid, CidError, Multihash, VARINT_LEN_MAX, cid_from_bytes, cid_from_text, cid_prefix,
    codec_by_name, codec_name, codecs, encode_base, parse_base,
};
pub use self::hash::{
    DIGEST_LEN_MAX, DIGEST_LEN_MIN, HashError, HashFn, IDENTITY_CODE, check_hash,
};

/// Largest block in bytes that is stored, fetched, imported or served (bitswap spec, "must accept
/// blocks up to 2 MiB").
pub const BLOCK_LEN_MAX: usize = 2 * 1024 * 1024;

/// Why bytes are not a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The hash function or digest length is outside the allow-list.
    #[error("{cid}: {source}")]
    Hash {
        /// The refused address.
        cid: Box<Cid>,
        /// The rule it breaks.
        source: HashError,
    },
    /// The bytes hash to something else.
    #[error("the bytes given for {cid} do not match it")]
    Mismatch {
        /// The address that was claimed.
        cid: Box<Cid>,
    },
    /// The block is longer than [`BLOCK_LEN_MAX`].
    #[error("a block of {len} bytes is over the limit of {BLOCK_LEN_MAX} bytes")]
    TooBig {
        /// Length in bytes.
        len: usize,
    },
    /// The hash and CID version do not go together (CIDv0 is dag-pb with sha2-256 only).
    #[error("CIDv0 takes the codec dag-pb and the hash sha2-256 only")]
    NotV0,
}

/// Bytes together with the CID that they were hashed against.
///
/// Cloning is cheap: the bytes are reference-counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    data: Bytes,
}

impl Block {
    /// Returns the block if `data` hashes to `cid`.
    ///
    /// # Errors
    /// [`BlockError::TooBig`] before anything is hashed, [`BlockError::Hash`] when the allow-list
    /// refuses the CID, [`BlockError::Mismatch`] when the bytes are not what the CID names.
    pub fn verify(cid: Cid, data: Bytes) -> Result<Self, BlockError> {
        if data.len() > BLOCK_LEN_MAX {
            return Err(BlockError::TooBig { len: data.len() });
        }
        let hash = cid.hash();
        let matches = hash::matches(hash.code(), hash.digest(), &data)
            .map_err(|source| BlockError::Hash { cid: Box::new(cid), source })?;
        if matches {
            Ok(Self { cid, data })
        } else {
            Err(BlockError::Mismatch { cid: Box::new(cid) })
        }
    }

    /// Tells whether `data` is the block that `cid` names, without taking it.
    pub fn matches(cid: &Cid, data: &[u8]) -> bool {
        let (code, digest) = (cid.hash().code(), cid.hash().digest());
        data.len() <= BLOCK_LEN_MAX && hash::matches(code, digest, data).unwrap_or(false)
    }

    /// Returns the CIDv1 block of `data` under `codec`, hashed with `hash`.
    ///
    /// # Errors
    /// [`BlockError::TooBig`], or [`BlockError::Hash`] for identity data over 128 bytes.
    pub fn hash(codec: u64, hash: HashFn, data: Bytes) -> Result<Self, BlockError> {
        if data.len() > BLOCK_LEN_MAX {
            return Err(BlockError::TooBig { len: data.len() });
        }
        let multihash = hash.multihash(&data).map_err(|source| BlockError::Hash {
            cid: Box::new(Cid::new_v1(codec, Multihash::default())),
            source,
        })?;
        Ok(Self { cid: Cid::new_v1(codec, multihash), data })
    }

    /// Returns the CIDv1 block of `data` under `codec` whose multihash has this code and this many bytes of
    /// the digest.
    ///
    /// # Errors
    /// [`BlockError::TooBig`]; [`BlockError::Hash`] when the allow-list refuses such a multihash.
    pub fn hash_to(
        codec: u64,
        code: u64,
        digest_len: usize,
        data: Bytes,
    ) -> Result<Self, BlockError> {
        if data.len() > BLOCK_LEN_MAX {
            return Err(BlockError::TooBig { len: data.len() });
        }
        let multihash = hash::multihash(code, digest_len, &data).map_err(|source| {
            BlockError::Hash { cid: Box::new(Cid::new_v1(codec, Multihash::default())), source }
        })?;
        Ok(Self { cid: Cid::new_v1(codec, multihash), data })
    }

    /// Returns the CIDv0 block (dag-pb, sha2-256) of `data`.
    ///
    /// # Errors
    /// [`BlockError::TooBig`].
    pub fn hash_v0(data: Bytes) -> Result<Self, BlockError> {
        let block = Self::hash(codecs::DAG_PB, HashFn::SHA2_256, data)?;
        let cid = Cid::new_v0(*block.cid.hash()).map_err(|_| BlockError::NotV0)?;
        Ok(Self { cid, data: block.data })
    }

    /// Returns the block that an identity CID carries in itself, `None` for any other CID.
    pub fn from_identity(cid: &Cid) -> Option<Self> {
        let hash = cid.hash();
        (hash.code() == IDENTITY_CODE)
            .then(|| Self { cid: *cid, data: Bytes::copy_from_slice(hash.digest()) })
    }

    /// Returns the same bytes under another CID with the same multihash (codec and version are
    /// only how the bytes are read, spec 01 §1), `None` when the multihash differs.
    pub fn with_cid(&self, cid: Cid) -> Option<Self> {
        (cid.hash() == self.cid.hash()).then(|| Self { cid, data: self.data.clone() })
    }

    /// Returns the address.
    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    /// Returns the bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Returns some of the bytes; `range` is cut at their end.
    pub fn slice(&self, range: Range<u64>) -> Bytes {
        let cut =
            |at: u64| usize::try_from(at).map_or(self.data.len(), |at| at.min(self.data.len()));
        let start = cut(range.start);
        self.data.slice(start..cut(range.end).max(start))
    }

    /// Returns the bytes, without the address.
    pub fn into_data(self) -> Bytes {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Bytes {
        Bytes::from_static(b"hello world\n")
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake must not panic")]
    fn slices_are_cut_at_the_end() {
        let block = Block::hash(codecs::RAW, HashFn::SHA2_256, hello()).unwrap();
        let slice = |range| block.slice(range);
        assert_eq!((&slice(0..5)[..], &slice(6..u64::MAX)[..]), (&b"hello"[..], &b"world\n"[..]));
        assert!(slice(12..13).is_empty() && slice(u64::MAX..u64::MAX).is_empty());
        assert!(slice(7..3).is_empty());
    }

    #[test]
    fn hashing_gives_the_cids_of_the_spec() {
        let raw = Block::hash(codecs::RAW, HashFn::SHA2_256, hello()).unwrap();
        assert_eq!(
            raw.cid().to_string(),
            "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"
        );
        let empty_dir = Block::hash_v0(Bytes::from_static(&[0x0a, 2, 8, 1])).unwrap();
        assert_eq!(empty_dir.cid().to_string(), "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn");
    }

    #[test]
    fn other_bytes_are_refused() {
        let cid = *Block::hash(codecs::RAW, HashFn::SHA2_256, hello()).unwrap().cid();
        assert!(Block::verify(cid, hello()).is_ok());
        let lie = Block::verify(cid, Bytes::from_static(b"hello world"));
        assert!(matches!(lie, Err(BlockError::Mismatch { .. })));
    }

    #[test]
    fn big_blocks_are_refused_before_hashing() {
        let big = Bytes::from(vec![0; BLOCK_LEN_MAX + 1]);
        let cid = *Block::hash(codecs::RAW, HashFn::SHA2_256, hello()).unwrap().cid();
        assert_eq!(Block::verify(cid, big.clone()), Err(BlockError::TooBig { len: big.len() }));
        assert!(Block::hash(codecs::RAW, HashFn::SHA2_256, big).is_err());
    }

    #[test]
    fn identity_cids_carry_their_block() {
        let cid = cid_from_text("bafkqaddimvwgy3zao5xxe3debi").unwrap();
        assert_eq!(Block::from_identity(&cid).unwrap().data(), &hello());
        let plain = *Block::hash(codecs::RAW, HashFn::SHA2_256, hello()).unwrap().cid();
        assert_eq!(Block::from_identity(&plain), None);
    }

    #[test]
    fn a_block_changes_its_codec_but_never_its_hash() {
        let raw = Block::hash(codecs::RAW, HashFn::SHA2_256, hello()).unwrap();
        let pb = Cid::new_v1(codecs::DAG_PB, *raw.cid().hash());
        assert_eq!(raw.with_cid(pb).unwrap().cid(), &pb);
        let other = *Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::new()).unwrap().cid();
        assert_eq!(raw.with_cid(other), None);
    }
}
