//! What a block is looked up by: its multihash, in 32 bytes and one bit.

use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};

use super::framing::Framing;
use crate::block::{Cid, cid_from_bytes};

const SHA2_256_CODE: u64 = 0x12;
/// What stands in front of the digest in the CID of a raw block hashed with sha2-256.
const RAW_PREFIX: [u8; 4] = [0x01, 0x55, 0x12, 0x20];
/// The same for a CIDv0, which is always of a dag-pb node.
const V0_PREFIX: [u8; 2] = [0x12, 0x20];

/// A block's look-up key.
///
/// A full sha2-256 digest is its own key. Any other multihash is keyed by the sha2-256 of the
/// multihash's bytes, with `derived` set: without the flag, anyone could make a block whose content
/// is someone else's multihash, and the two would share a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockKey {
    pub(super) digest: [u8; 32],
    pub(super) derived: bool,
}

impl Hash for BlockKey {
    /// Half of a digest, which nobody can make many keys share, is as good as all of it.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.digest[..16]);
    }
}

impl BlockKey {
    /// Returns the key of a CID; codec and version play no part.
    pub(super) fn of(cid: &Cid) -> Self {
        let hash = cid.hash();
        match <[u8; 32]>::try_from(hash.digest()) {
            Ok(digest) if hash.code() == SHA2_256_CODE => Self { digest, derived: false },
            _ => Self { digest: Sha256::digest(hash.to_bytes()).into(), derived: true },
        }
    }

    /// Returns the CID of the leaf with this key that lies so in a file; `None` when its hash cannot be
    /// told.
    pub(super) fn leaf_cid(&self, framing: Framing) -> Option<Cid> {
        let prefix = if framing == Framing::Bare { &RAW_PREFIX[..] } else { &V0_PREFIX };
        let cid = cid_from_bytes(&[prefix, &self.digest].concat()).ok();
        cid.filter(|_| !self.derived)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::block::{Block, HashFn, codecs};

    #[test]
    fn codec_and_version_play_no_part() {
        let v0 = Block::hash_v0(Bytes::from_static(b"x")).unwrap();
        let raw = Cid::new_v1(codecs::RAW, *v0.cid().hash());
        assert_eq!(BlockKey::of(v0.cid()), BlockKey::of(&raw));
        let key = BlockKey::of(&raw);
        assert_eq!(key.leaf_cid(Framing::Bare), Some(raw));
        assert_eq!(key.leaf_cid(Framing::PbRaw), Some(*v0.cid()));
        assert_eq!(BlockKey { derived: true, ..key }.leaf_cid(Framing::Bare), None);
    }

    #[test]
    fn content_that_is_a_multihash_does_not_collide() {
        let sha1 = HashFn::by_name("sha1").unwrap();
        let victim = Block::hash(codecs::RAW, sha1, Bytes::from_static(b"victim")).unwrap();
        let content = Bytes::from(victim.cid().hash().to_bytes());
        let forged = Block::hash(codecs::RAW, HashFn::SHA2_256, content).unwrap();
        let (a, b) = (BlockKey::of(victim.cid()), BlockKey::of(forged.cid()));
        assert_eq!(a.digest, b.digest, "the attack is real");
        assert_ne!(a, b);
    }
}
