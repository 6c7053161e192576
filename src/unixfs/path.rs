//! Content paths as people and programs write them (spec 01 §5), and legal names.
//!
//! Parsing is lexical: nothing is resolved, and nothing is percent-decoded, because a name may
//! itself hold `%2C`. Names are bytes.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::block::{Cid, CidError, cid_from_text};
use crate::codec::node::{NAME_LEN_MAX, name_is_legal};

/// Longest path in bytes that is parsed; the kernel's own limit is 4,096, the API's is larger
/// because paths into IPLD data have no names that Linux must bear.
pub const PATH_LEN_MAX: usize = 64 * 1024;

/// Why text is not a content path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Longer than [`PATH_LEN_MAX`].
    #[error("a path of {0} bytes is over the limit of {PATH_LEN_MAX} bytes")]
    TooLong(usize),
    /// Nothing, or a namespace without anything in it.
    #[error("\"{0}\" names no content; give /ipfs/<cid>, /ipns/<name> or a CID")]
    NoRoot(String),
    /// A namespace that is not known.
    #[error("unknown namespace in \"{0}\"; paths begin with /ipfs/ or /ipns/")]
    Namespace(String),
    /// The part after `/ipfs/` is no CID.
    #[error(transparent)]
    Cid(#[from] CidError),
    /// The path goes up beyond its root.
    #[error("the path goes above its root")]
    AboveRoot,
    /// A name that no directory can show.
    #[error("\"{}\" is not a legal name (1 to {NAME_LEN_MAX} bytes without NUL)", .0.escape_ascii())]
    Name(Bytes),
}

/// A legal name: 1 to 255 bytes, no `/` or NUL, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(Bytes);

impl Segment {
    /// Returns the name if it is legal.
    pub fn new(name: impl Into<Bytes>) -> Option<Self> {
        let name = name.into();
        name_is_legal(&name).then_some(Self(name))
    }

    /// Returns the bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Where a path begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRoot {
    /// Immutable: `/ipfs/<cid>`.
    Ipfs(Cid),
    /// Mutable: `/ipns/<key or domain>`, as written.
    Ipns(String),
}

/// A root and the names below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentPath {
    /// Where it begins.
    pub root: PathRoot,
    /// The names, from the root down.
    pub segments: Vec<Segment>,
}

impl ContentPath {
    /// Parses `/ipfs/<cid>/…`, `/ipns/<name>/…`, `<cid>/…`, `ipfs://<cid>/…` or `ipfs:<cid>/…`
    /// (the same for `ipns`; the scheme in any case). Repeated `/` and `.` vanish, `..` takes back
    /// the name before it.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn parse(text: &[u8]) -> Result<Self, PathError> {
        if text.len() > PATH_LEN_MAX {
            return Err(PathError::TooLong(text.len()));
        }
        let (is_mutable, rest) = split_namespace(text)?;
        let mut parts = rest.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
        let root = parts.next().ok_or_else(|| PathError::NoRoot(shown(text)))?;
        let root = match (is_mutable, std::str::from_utf8(root)) {
            (true, Ok(name)) => PathRoot::Ipns(name.to_owned()),
            (false, Ok(cid)) => PathRoot::Ipfs(cid_from_text(cid)?),
            (_, Err(_)) => return Err(PathError::NoRoot(shown(text))),
        };
        let mut segments = Vec::new();
        for part in parts {
            match part {
                b"." => {}
                b".." => {
                    segments.pop().ok_or(PathError::AboveRoot)?;
                }
                name => segments.push(segment(name)?),
            }
        }
        Ok(Self { root, segments })
    }
}

impl FromStr for ContentPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text.as_bytes())
    }
}

impl From<Cid> for ContentPath {
    fn from(cid: Cid) -> Self {
        Self { root: PathRoot::Ipfs(cid), segments: Vec::new() }
    }
}

impl fmt::Display for ContentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.root {
            PathRoot::Ipfs(cid) => write!(f, "/ipfs/{cid}")?,
            PathRoot::Ipns(name) => write!(f, "/ipns/{name}")?,
        }
        self.segments.iter().try_for_each(|segment| write!(f, "/{segment}"))
    }
}

fn segment(name: &[u8]) -> Result<Segment, PathError> {
    let name = Bytes::copy_from_slice(name);
    Segment::new(name.clone()).ok_or(PathError::Name(name))
}

/// Splits off the namespace; tells whether it is `ipns`.
fn split_namespace(text: &[u8]) -> Result<(bool, &[u8]), PathError> {
    for (scheme, is_mutable) in [("ipfs:", false), ("ipns:", true)] {
        if let Some((front, rest)) = text.split_at_checked(scheme.len())
            && front.eq_ignore_ascii_case(scheme.as_bytes())
        {
            return Ok((is_mutable, rest));
        }
    }
    if text.first() != Some(&b'/') {
        return Ok((false, text));
    }
    let mut parts = text.splitn(3, |&byte| byte == b'/').skip(1);
    match (parts.next(), parts.next()) {
        (Some(b"ipfs"), Some(rest)) => Ok((false, rest)),
        (Some(b"ipns"), Some(rest)) => Ok((true, rest)),
        (Some(b"ipfs" | b"ipns" | b""), _) => Err(PathError::NoRoot(shown(text))),
        _ => Err(PathError::Namespace(shown(text))),
    }
}

/// Returns the text for a message, cut to a sane length.
fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkqaaa";

    fn check(text: &str, normal: &str) {
        assert_eq!(ContentPath::parse(text.as_bytes()).unwrap().to_string(), normal, "{text}");
    }

    #[test]
    fn every_spelling_comes_to_one_form() {
        check("/ipfs/bafkqaaa", "/ipfs/bafkqaaa");
        check("bafkqaaa/a", "/ipfs/bafkqaaa/a");
        check("ipfs://bafkqaaa/a/", "/ipfs/bafkqaaa/a");
        check("IPFS:bafkqaaa", "/ipfs/bafkqaaa");
        check("/ipfs//bafkqaaa/./a//b/../c/", "/ipfs/bafkqaaa/a/c");
        check("/ipns/example.org/a%2Cb", "/ipns/example.org/a%2Cb");
        check("ipns://Example.org", "/ipns/Example.org");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let check = |text: &str, expected: &str| {
            let error = ContentPath::parse(text.as_bytes()).unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{text}: {error:?}");
        };
        for text in ["", "/", "/ipfs", "/ipfs/", "/ipns//", "ipfs://", "//ipfs/bafkqaaa"] {
            check(text, "NoRoot");
        }
        check("/ipld/bafkqaaa", "Namespace");
        check("/etc/passwd", "Namespace");
        check("/ipfs/x", "Cid");
        check("README.md", "Cid");
        check("/ipfs/bafkqaaa/..", "AboveRoot");
        check("/ipfs/bafkqaaa/a/../..", "AboveRoot");
        check("/ipfs/bafkqaaa/a\0", "Name");
        check(&format!("{CID}/{}", "n".repeat(256)), "Name");
        check(&"a/".repeat(PATH_LEN_MAX), "TooLong");
    }

    #[test]
    fn names_are_bytes() {
        let path = ContentPath::parse(b"bafkqaaa/\xff").unwrap();
        assert_eq!(path.segments[0].as_bytes(), b"\xff");
        for bad in ["", ".", "..", "a/b", "\0"] {
            assert_eq!(Segment::new(bad), None, "{bad}");
        }
    }
}
