//! What decides the CIDs of an import: the profile (spec 03 §8, IPIP-499).
//!
//! Equal content under an equal profile gives equal CIDs, whatever the order, the threads or the
//! way in which bytes arrive. Nothing else may influence them.

use cid::Version;

use super::chunk::Chunker;
use super::error::ImportError;
use crate::block::{DIGEST_LEN_MAX, HashFn};
use crate::codec::node::FANOUT_MAX;

/// Most links of a file's node: with 128 bytes for each, the longest a link with an inlined child
/// gets, the node still fits into a block of 2 MiB.
pub const LINKS_MAX_LIMIT: usize = 16_384;
/// Default of `--inline-limit` in bytes, kubo's.
pub const INLINE_LIMIT_DEFAULT: usize = 32;

/// How leaves become a tree (spec 03 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// All leaves at the same depth.
    Balanced,
    /// Leaves near the root first, for streams.
    Trickle,
}

/// How the size of a directory is estimated before it is sharded (spec 03 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HamtEstimate {
    /// Bytes of names and CIDs.
    Links,
    /// Exact bytes of the dag-pb node.
    Block,
    /// Not at all: only the number of links decides.
    Disabled,
}

/// Every setting that has an influence on CIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Version of the CIDs of dag-pb blocks; raw leaves are always version 1.
    pub cid_version: Version,
    /// Hash function of all blocks.
    pub hash: HashFn,
    /// Where files are cut.
    pub chunker: Chunker,
    /// Leaves are bare bytes rather than dag-pb nodes.
    pub raw_leaves: bool,
    /// How leaves become a tree.
    pub layout: Layout,
    /// Most links of a file's node.
    pub links_max: usize,
    /// Most links of a directory in one block; more shard it. 0 is no limit.
    pub dir_links_max: usize,
    /// Width of sharded directories.
    pub hamt_fanout: u32,
    /// A directory whose estimate is over this many bytes is sharded.
    pub hamt_threshold: usize,
    /// How that estimate is made.
    pub hamt_estimate: HamtEstimate,
    /// Blocks of at most this many bytes lie in their CIDs; `None` inlines nothing.
    pub inline_limit: Option<usize>,
}

/// What a caller says about addresses and leaves; `None` leaves it to the profile.
#[derive(Debug, Clone, Copy, Default)]
pub struct AddressFlags {
    /// `--cid-version`.
    pub cid_version: Option<Version>,
    /// `--hash`.
    pub hash: Option<HashFn>,
    /// `--raw-leaves`.
    pub raw_leaves: Option<bool>,
    /// Any of `--preserve-mode`, `--preserve-mtime`, `--mode`, `--mtime`.
    pub metadata: bool,
}

impl Default for Profile {
    fn default() -> Self {
        Self::unixfs_v1_2025()
    }
}

impl Profile {
    /// Returns the profile `unixfs-v1-2025` of IPIP-499.
    pub fn unixfs_v1_2025() -> Self {
        Self {
            cid_version: Version::V1,
            hash: HashFn::SHA2_256,
            chunker: Chunker::Size(1024 * 1024),
            raw_leaves: true,
            layout: Layout::Balanced,
            links_max: 1024,
            dir_links_max: 0,
            hamt_fanout: 256,
            hamt_threshold: 262_144,
            hamt_estimate: HamtEstimate::Block,
            inline_limit: None,
        }
    }

    /// Returns the profile `unixfs-v0-2015` of IPIP-499, kubo's default.
    pub fn unixfs_v0_2015() -> Self {
        Self {
            cid_version: Version::V0,
            chunker: Chunker::Size(262_144),
            raw_leaves: false,
            links_max: 174,
            hamt_estimate: HamtEstimate::Links,
            ..Self::unixfs_v1_2025()
        }
    }

    /// Returns the profile of that name, `None` when there is none.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "unixfs-v1-2025" => Some(Self::unixfs_v1_2025()),
            "unixfs-v0-2015" | "legacy-cid-v0" => Some(Self::unixfs_v0_2015()),
            _ => None,
        }
    }

    /// Applies flags with the consequences that they have in kubo (spec 03 §8): another hash than
    /// sha2-256 takes CIDv1; going from CIDv0 to CIDv1 turns raw leaves on; storing mode or mtime
    /// turns them off for the whole import.
    ///
    /// # Errors
    /// [`ImportError::Setting`] when the flags exclude each other.
    pub fn with_flags(mut self, flags: AddressFlags) -> Result<Self, ImportError> {
        let setting = |text: &str| Err(ImportError::Setting(text.to_owned()));
        let before = self.cid_version;
        self.hash = flags.hash.unwrap_or(self.hash);
        self.cid_version = match flags.cid_version {
            Some(Version::V0) if self.hash != HashFn::SHA2_256 => {
                return setting("CIDv0 takes the hash sha2-256 only; use --cid-version=1");
            }
            Some(version) => version,
            None if self.hash != HashFn::SHA2_256 => Version::V1,
            None => before,
        };
        if before == Version::V0 && self.cid_version == Version::V1 {
            self.raw_leaves = true;
        }
        self.raw_leaves = match flags.raw_leaves {
            Some(true) if flags.metadata => {
                return setting("raw leaves have no room for mode or mtime; drop --raw-leaves");
            }
            Some(raw_leaves) => raw_leaves,
            None => self.raw_leaves && !flags.metadata,
        };
        Ok(self)
    }

    /// Checks every range, so that nothing below has to.
    ///
    /// # Errors
    /// [`ImportError::Setting`] names the setting and its range.
    pub(super) fn check(&self) -> Result<(), ImportError> {
        let setting = |text: String| Err(ImportError::Setting(text));
        if self.cid_version == Version::V0 && self.hash != HashFn::SHA2_256 {
            return setting("CIDv0 takes the hash sha2-256 only".to_owned());
        }
        self.chunker.check()?;
        if !(2..=LINKS_MAX_LIMIT).contains(&self.links_max) {
            return setting(format!("a file's node has 2 to {LINKS_MAX_LIMIT} links"));
        }
        let fanout = self.hamt_fanout;
        if !fanout.is_power_of_two() || !(8..=FANOUT_MAX).contains(&fanout) {
            return setting(format!(
                "the fanout of sharded directories is a power of two from 8 to {FANOUT_MAX}"
            ));
        }
        match self.inline_limit {
            Some(limit) if limit > DIGEST_LEN_MAX => {
                setting(format!("a CID holds at most {DIGEST_LEN_MAX} inlined bytes"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_the_consequences_that_they_have_in_kubo() {
        let v0 = Profile::unixfs_v0_2015;
        let blake = Some(HashFn::by_name("blake3").unwrap());
        let check = |profile: Profile, flags: AddressFlags, version, raw_leaves| {
            let got = profile.with_flags(flags).unwrap();
            assert_eq!((got.cid_version, got.raw_leaves), (version, raw_leaves), "{flags:?}");
        };
        let none = AddressFlags::default();
        check(v0(), none, Version::V0, false);
        check(v0(), AddressFlags { cid_version: Some(Version::V1), ..none }, Version::V1, true);
        check(v0(), AddressFlags { raw_leaves: Some(true), ..none }, Version::V0, true);
        check(v0(), AddressFlags { hash: blake, ..none }, Version::V1, true);
        let plain = AddressFlags { hash: blake, raw_leaves: Some(false), ..none };
        check(v0(), plain, Version::V1, false);
        check(Profile::default(), AddressFlags { metadata: true, ..none }, Version::V1, false);
        for bad in [
            AddressFlags { cid_version: Some(Version::V0), hash: blake, ..none },
            AddressFlags { raw_leaves: Some(true), metadata: true, ..none },
        ] {
            assert!(v0().with_flags(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let good = Profile::default;
        good().check().unwrap();
        for bad in [
            Profile { links_max: 1, ..good() },
            Profile { links_max: LINKS_MAX_LIMIT + 1, ..good() },
            Profile { hamt_fanout: 24, ..good() },
            Profile { hamt_fanout: 2048, ..good() },
            Profile { inline_limit: Some(129), ..good() },
            Profile { chunker: Chunker::Size(0), ..good() },
            Profile {
                cid_version: Version::V0,
                hash: HashFn::by_name("blake3").unwrap(),
                ..good()
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
