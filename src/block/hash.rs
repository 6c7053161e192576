//! The hash allow-list (spec 01 §3, boxo's `verifcid`) and the functions behind it.
//!
//! What is not in the list (md5, murmur, sha2-384, …) is refused for storing and for fetching, and
//! so is a digest shorter than 20 or longer than 128 bytes: a short digest can be forged.

use std::hint::black_box;

use blake2::digest::{Update as _, VariableOutput as _};
use sha2::Digest as _;
use sha3::digest::{ExtendableOutput as _, XofReader as _};

use super::cid::Multihash;

/// Multihash code of the identity function: the digest is the data.
pub const IDENTITY_CODE: u64 = 0x00;
/// Shortest digest in bytes that proves anything (identity excepted).
pub const DIGEST_LEN_MIN: usize = 20;
/// Longest digest in bytes, identity included.
pub const DIGEST_LEN_MAX: usize = 128;

/// Bytes that are brought near before they are hashed, …
const NEAR_BYTES: usize = 1024;
/// … a line of the processor's cache at a time.
const CACHE_LINE: usize = 64;

const BLAKE2B_1: u64 = 0xb201;
const BLAKE2B_64: u64 = 0xb240;
const BLAKE2S_1: u64 = 0xb241;
const BLAKE2S_32: u64 = 0xb260;

/// Why a multihash is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The function is not in the allow-list.
    #[error("hash function 0x{code:x} is not allowed")]
    NotAllowed {
        /// Multihash code.
        code: u64,
    },
    /// The digest is too short to prove anything, or too long.
    #[error("a digest of {len} bytes is outside what hash function 0x{code:x} may have")]
    DigestLen {
        /// Multihash code.
        code: u64,
        /// Digest length in bytes.
        len: usize,
    },
    /// No function of that name is known, or it cannot make new addresses.
    #[error("unknown hash function \"{0}\"")]
    UnknownName(String),
}

/// A hash function that new blocks can be made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashFn {
    code: u64,
    digest_len: usize,
}

/// Names (multicodec table), codes and default digest lengths of functions that make new blocks.
const NAMED: &[(&str, u64, usize)] = &[
    ("identity", IDENTITY_CODE, 0),
    ("sha1", 0x11, 20),
    ("sha2-256", 0x12, 32),
    ("sha2-512", 0x13, 64),
    ("sha3-512", 0x14, 64),
    ("sha3-384", 0x15, 48),
    ("sha3-256", 0x16, 32),
    ("sha3-224", 0x17, 28),
    ("shake-256", 0x19, 64),
    ("keccak-224", 0x1a, 28),
    ("keccak-256", 0x1b, 32),
    ("keccak-384", 0x1c, 48),
    ("keccak-512", 0x1d, 64),
    ("blake3", 0x1e, 32),
    ("dbl-sha2-256", 0x56, 32),
];

impl HashFn {
    /// sha2-256, the network's default.
    pub const SHA2_256: Self = Self { code: 0x12, digest_len: 32 };
    /// The data itself, at most 128 bytes.
    pub const IDENTITY: Self = Self { code: IDENTITY_CODE, digest_len: 0 };

    /// Returns the function with this multicodec name (`sha2-256`, `blake3`, `blake2b-256`, …).
    pub fn by_name(name: &str) -> Result<Self, HashError> {
        if let Some(&(_, code, digest_len)) = NAMED.iter().find(|(known, ..)| *known == name) {
            return Ok(Self { code, digest_len });
        }
        let unknown = || HashError::UnknownName(name.to_owned());
        let (first, bytes_max, bits) = if let Some(bits) = name.strip_prefix("blake2b-") {
            (BLAKE2B_1, 64, bits)
        } else if let Some(bits) = name.strip_prefix("blake2s-") {
            (BLAKE2S_1, 32, bits)
        } else {
            return Err(unknown());
        };
        let bits: usize = bits.parse().map_err(|_| unknown())?;
        let digest_len = bits / 8;
        if !bits.is_multiple_of(8) || !(DIGEST_LEN_MIN..=bytes_max).contains(&digest_len) {
            return Err(unknown());
        }
        Ok(Self { code: first + digest_len as u64 - 1, digest_len })
    }

    /// Returns the multihash code.
    pub fn code(self) -> u64 {
        self.code
    }

    /// Returns the length of its digests in bytes; 0 for identity, whose digest is the data.
    pub fn digest_len(self) -> usize {
        self.digest_len
    }

    /// Returns the multicodec name.
    pub fn name(self) -> String {
        match self.code {
            BLAKE2B_1..=BLAKE2B_64 => format!("blake2b-{}", self.digest_len * 8),
            BLAKE2S_1..=BLAKE2S_32 => format!("blake2s-{}", self.digest_len * 8),
            code => NAMED
                .iter()
                .find(|(_, known, _)| *known == code)
                .map_or_else(|| format!("0x{code:x}"), |(name, ..)| (*name).to_owned()),
        }
    }

    /// Returns the multihash of `data`.
    ///
    /// # Errors
    /// [`HashError::DigestLen`] when identity data is over 128 bytes.
    pub(super) fn multihash(self, data: &[u8]) -> Result<Multihash, HashError> {
        multihash(self.code, self.digest_len, data)
    }
}

/// Checks a multihash against the allow-list, without any data.
///
/// # Errors
/// [`HashError`] names the rule that is broken.
pub fn check_hash(code: u64, digest_len: usize) -> Result<(), HashError> {
    let len_max = match code {
        IDENTITY_CODE => return check_len(code, digest_len, 0, DIGEST_LEN_MAX),
        BLAKE2B_1..=BLAKE2B_64 => usize::try_from(code - BLAKE2B_1 + 1).unwrap_or(0),
        BLAKE2S_1..=BLAKE2S_32 => usize::try_from(code - BLAKE2S_1 + 1).unwrap_or(0),
        0x1e | 0x19 => DIGEST_LEN_MAX,
        _ => NAMED
            .iter()
            .find(|(_, known, _)| *known == code)
            .map(|(_, _, len)| *len)
            .ok_or(HashError::NotAllowed { code })?,
    };
    check_len(code, digest_len, DIGEST_LEN_MIN, len_max)
}

fn check_len(code: u64, len: usize, min: usize, max: usize) -> Result<(), HashError> {
    if (min..=max).contains(&len) { Ok(()) } else { Err(HashError::DigestLen { code, len }) }
}

/// Tells whether `data` hashes to `digest`; a digest shorter than the function's own is compared
/// with the front of the full one.
pub(super) fn matches(code: u64, digest: &[u8], data: &[u8]) -> Result<bool, HashError> {
    check_hash(code, digest.len())?;
    if code == IDENTITY_CODE {
        return Ok(digest == data);
    }
    Ok(multihash(code, digest.len(), data)?.digest() == digest)
}

/// Returns the multihash of `data` with the first `len` bytes of the digest.
pub(super) fn multihash(code: u64, len: usize, data: &[u8]) -> Result<Multihash, HashError> {
    check_hash(code, len)?;
    if code == IDENTITY_CODE {
        let wrong_len = |_| HashError::DigestLen { code, len: data.len() };
        return Multihash::wrap(code, data).map_err(wrong_len);
    }
    let full_len = full_len(code, len);
    let mut full = [0; DIGEST_LEN_MAX];
    compute(code, data, &mut full[..full_len]).ok_or(HashError::NotAllowed { code })?;
    Multihash::wrap(code, &full[..len]).map_err(|_| HashError::DigestLen { code, len })
}

/// Returns the length in bytes that the function itself produces; extendable ones give what is
/// asked.
fn full_len(code: u64, asked: usize) -> usize {
    match code {
        0x1e | 0x19 => asked,
        BLAKE2B_1..=BLAKE2B_64 => usize::try_from(code - BLAKE2B_1 + 1).unwrap_or(asked),
        BLAKE2S_1..=BLAKE2S_32 => usize::try_from(code - BLAKE2S_1 + 1).unwrap_or(asked),
        _ => NAMED.iter().find(|(_, known, _)| *known == code).map_or(asked, |(_, _, len)| *len),
    }
}

/// Writes the digest of `data` into `out`, whose length is the function's own; `None` when the
/// function is not in the list.
fn compute(code: u64, data: &[u8], out: &mut [u8]) -> Option<()> {
    match code {
        0x11 => out.copy_from_slice(&sha1::Sha1::digest(data)),
        0x12 => out.copy_from_slice(&sha256(data)),
        0x13 => out.copy_from_slice(&sha2::Sha512::digest(data)),
        0x14 => out.copy_from_slice(&sha3::Sha3_512::digest(data)),
        0x15 => out.copy_from_slice(&sha3::Sha3_384::digest(data)),
        0x16 => out.copy_from_slice(&sha3::Sha3_256::digest(data)),
        0x17 => out.copy_from_slice(&sha3::Sha3_224::digest(data)),
        0x19 => {
            let mut hasher = sha3::Shake256::default();
            sha3::digest::Update::update(&mut hasher, data);
            hasher.finalize_xof().read(out);
        }
        0x1a => out.copy_from_slice(&sha3::Keccak224::digest(data)),
        0x1b => out.copy_from_slice(&sha3::Keccak256::digest(data)),
        0x1c => out.copy_from_slice(&sha3::Keccak384::digest(data)),
        0x1d => out.copy_from_slice(&sha3::Keccak512::digest(data)),
        0x1e => blake3::Hasher::new().update(data).finalize_xof().fill(out),
        0x56 => out.copy_from_slice(&sha2::Sha256::digest(sha256(data))),
        BLAKE2B_1..=BLAKE2B_64 => {
            let mut hasher = blake2::Blake2bVar::new(out.len()).ok()?;
            hasher.update(data);
            hasher.finalize_variable(out).ok()?;
        }
        BLAKE2S_1..=BLAKE2S_32 => {
            let mut hasher = blake2::Blake2sVar::new(out.len()).ok()?;
            hasher.update(data);
            hasher.finalize_variable(out).ok()?;
        }
        _ => return None,
    }
    Some(())
}

/// Hashes bytes that another processor wrote, or a disk.
///
/// The instructions for it use the bytes so slowly, one after the other, that what is not in the cache is asked
/// for a line at a time, which makes the whole half as slow again. So a line of each is looked at before.
fn sha256(data: &[u8]) -> [u8; 32] {
    let mut hasher = sha2::Sha256::new();
    for part in data.chunks(NEAR_BYTES) {
        black_box(part.iter().step_by(CACHE_LINE).fold(0, |sum, byte| sum ^ byte));
        hasher.update(part);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(code: u64, len: usize, data: &[u8]) -> String {
        let mut out = vec![0; len];
        compute(code, data, &mut out).unwrap();
        multibase::Base::Base16Lower.encode(&out)
    }

    #[test]
    fn known_digests() {
        assert_eq!(hex(0x11, 20, b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(
            hex(0x12, 32, b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            hex(0x56, 32, b"hello"),
            "9595c9df90075148eb06860365df33584b75bff782a510c6cd4883a419833d50"
        );
        assert_eq!(
            hex(0x1b, 32, b""),
            "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
        );
        assert_eq!(
            hex(0xb220, 32, b""),
            "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
        );
    }

    #[test]
    fn bytes_that_are_hashed_in_parts_have_the_digest_of_the_whole() {
        let data: Vec<u8> = (0..5 * NEAR_BYTES).map(|at| at.to_le_bytes()[at % 2]).collect();
        for len in [0, 1, NEAR_BYTES - 1, NEAR_BYTES, NEAR_BYTES + 1, 3000, data.len()] {
            assert_eq!(sha256(&data[..len])[..], sha2::Sha256::digest(&data[..len])[..], "{len}");
        }
    }

    #[test]
    fn every_named_function_hashes_to_its_own_length() {
        for &(name, code, len) in NAMED {
            let hash = HashFn::by_name(name).unwrap();
            assert_eq!((hash.code(), hash.name().as_str()), (code, name));
            let made = hash.multihash(b"data").unwrap();
            if code != IDENTITY_CODE {
                assert_eq!(usize::from(made.size()), len, "{name}");
            }
            assert!(matches(code, made.digest(), b"data").unwrap(), "{name}");
            assert!(!matches(code, made.digest(), b"Data").unwrap(), "{name}");
        }
    }

    #[test]
    fn the_allow_list_holds() {
        for refused in [0x20, 0x22, 0xd5, 0x1012, 0xb300] {
            assert!(check_hash(refused, 32).is_err(), "0x{refused:x}");
        }
        assert!(check_hash(0x12, 8).is_err(), "8 bytes of sha2-256 can be forged");
        assert!(check_hash(0x12, 20).is_ok(), "truncated to 20 bytes is boxo's minimum");
        assert!(check_hash(0x12, 33).is_err());
        assert!(check_hash(0x1e, 128).is_ok());
        assert!(check_hash(0xb201, 1).is_err());
        assert!(check_hash(IDENTITY_CODE, 0).is_ok());
        assert!(check_hash(IDENTITY_CODE, 129).is_err());
    }

    #[test]
    fn a_truncated_digest_is_the_front_of_the_full_one() {
        let mut full = [0; 32];
        compute(0x12, b"data", &mut full).unwrap();
        assert!(matches(0x12, &full[..20], b"data").unwrap());
        assert!(matches(0x12, &full[..8], b"data").is_err());
    }

    #[test]
    fn blake2_names_carry_their_width() {
        assert_eq!(HashFn::by_name("blake2b-256").unwrap().code(), 0xb220);
        assert_eq!(HashFn::by_name("blake2s-256").unwrap().code(), 0xb260);
        for bad in ["blake2b-8", "blake2b-520", "blake2s-512", "blake2b-25x", "md5"] {
            assert!(HashFn::by_name(bad).is_err(), "{bad}");
        }
    }
}
