//! The IPLD data model: what a dag-cbor or dag-json block says, apart from how it is written.
//!
//! A value is a plain tree; a link is only a CID, and following it is the caller's business. The
//! types are small on purpose: a hostile block of 2 MiB must not become a tree of gigabytes, so a
//! CID is boxed and a map is a sorted vector (the worst blocks then take below 100 MB). There are no
//! schemas and no selectors here.

use std::cmp::Ordering;

use crate::block::{BLOCK_LEN_MAX, Cid};

/// Deepest nesting of lists and maps that is decoded; real data stays below ten, and the stack that
/// this depth takes is far below what a thread has.
pub const DEPTH_MAX: usize = 128;

/// Why bytes are no IPLD value, or a value has no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpldError {
    /// The input is longer than a block may be.
    #[error("a node of {len} bytes is over the limit of {BLOCK_LEN_MAX} bytes")]
    TooBig {
        /// Length in bytes.
        len: usize,
    },
    /// The bytes are not canonical dag-cbor.
    #[error("not dag-cbor, at byte {at}: {reason}")]
    Cbor {
        /// Offset in bytes of the item at fault.
        at: usize,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The text is not dag-json.
    #[error("not dag-json: {0}")]
    Json(String),
    /// A map was built with the same key twice.
    #[error("the map key \"{0}\" appears twice")]
    DuplicateKey(String),
    /// The value has no form in the codec that was asked for.
    #[error("cannot be written in this codec: {0}")]
    Inexpressible(&'static str),
}

/// A value of the IPLD data model.
#[derive(Debug, Clone, PartialEq)]
pub enum Ipld {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number; codecs carry −2⁶⁴ to 2⁶⁴−1.
    Integer(i128),
    /// A finite number of 64 bits.
    Float(f64),
    /// UTF-8 text.
    String(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Ipld>),
    /// Values by name.
    Map(Map),
    /// The address of another block.
    Link(Box<Cid>),
}

impl Ipld {
    /// Returns the value that one path segment names: a key of a map, or the decimal index of a
    /// list item (spec 02 §3).
    pub fn get(&self, segment: &str) -> Option<&Self> {
        match self {
            Self::Map(map) => map.get(segment),
            Self::List(items) => items.get(list_index(segment)?),
            _ => None,
        }
    }

    /// Follows `segments` until they end or a link is reached, and returns the value there with the
    /// number of segments used; `None` when a segment names nothing.
    ///
    /// A link with segments left over continues in the block that it names.
    pub fn walk<S: AsRef<str>>(&self, segments: &[S]) -> Option<(&Self, usize)> {
        let mut value = self;
        for (used, segment) in segments.iter().enumerate() {
            if matches!(value, Self::Link(_)) {
                return Some((value, used));
            }
            value = value.get(segment.as_ref())?;
        }
        Some((value, segments.len()))
    }

    /// Returns an iterator over every link in the value, in the order of the encoded form.
    pub fn links(&self) -> impl Iterator<Item = &Cid> {
        let mut pending = vec![self];
        std::iter::from_fn(move || {
            while let Some(value) = pending.pop() {
                match value {
                    Self::Link(cid) => return Some(&**cid),
                    Self::List(items) => pending.extend(items.iter().rev()),
                    Self::Map(map) => pending.extend(map.0.iter().rev().map(|(_, item)| item)),
                    _ => {}
                }
            }
            None
        })
    }
}

impl From<Cid> for Ipld {
    fn from(cid: Cid) -> Self {
        Self::Link(Box::new(cid))
    }
}

/// A map with unique keys, kept in the order of dag-cbor: shorter keys first, then by bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Map(Vec<(String, Ipld)>);

impl Map {
    /// Returns the map of `entries`, which may come in any order.
    ///
    /// # Errors
    /// [`IpldError::DuplicateKey`].
    pub fn new(mut entries: Vec<(String, Ipld)>) -> Result<Self, IpldError> {
        entries.sort_by(|(a, _), (b, _)| key_order(a, b));
        match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(IpldError::DuplicateKey(pair[0].0.clone())),
            None => Ok(Self(entries)),
        }
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&Ipld> {
        let found = self.0.binary_search_by(|(known, _)| key_order(known, key)).ok()?;
        Some(&self.0[found].1)
    }

    /// Returns the entries in the order of dag-cbor.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Ipld)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Compares two keys in the order of dag-cbor.
pub(super) fn key_order(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Refuses input that no block can hold, before anything is read.
pub(super) fn check_len(bytes: &[u8]) -> Result<(), IpldError> {
    if bytes.len() > BLOCK_LEN_MAX {
        return Err(IpldError::TooBig { len: bytes.len() });
    }
    Ok(())
}

/// One index has one spelling: no sign, no leading zero.
fn list_index(segment: &str) -> Option<usize> {
    let plain = segment == "0" || segment.starts_with(|first: char| matches!(first, '1'..='9'));
    if plain { segment.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::cid_from_text;

    fn cid(text: &str) -> Cid {
        cid_from_text(text).unwrap()
    }

    fn map(entries: Vec<(&str, Ipld)>) -> Ipld {
        let owned = entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ipld::Map(Map::new(owned).unwrap())
    }

    fn sample() -> Ipld {
        map(vec![
            ("links", Ipld::List(vec![cid("bafkqaaa").into(), map(vec![("0", Ipld::Null)])])),
            ("a", cid("bafyaabakaieac").into()),
        ])
    }

    #[test]
    fn paths_go_by_key_and_index_and_stop_at_links() {
        let value = sample();
        let check = |path: &[&str], expected: Option<(&Ipld, usize)>| {
            assert_eq!(value.walk(path), expected, "{path:?}");
        };
        let link = Ipld::from(cid("bafkqaaa"));
        check(&[], Some((&value, 0)));
        check(&["links", "0"], Some((&link, 2)));
        check(&["links", "0", "x", "y"], Some((&link, 2)));
        check(&["links", "1", "0"], Some((&Ipld::Null, 3)));
        for missing in ["2", "00", "01", "+0", "-0", "", " 0", "x", "99999999999999999999999"] {
            check(&["links", missing], None);
        }
        check(&["links", "1", "0", "x"], None);
        check(&["link"], None);
    }

    #[test]
    fn links_come_in_encoded_order() {
        let value = sample();
        let links: Vec<_> = value.links().map(ToString::to_string).collect();
        assert_eq!(links, ["bafyaabakaieac", "bafkqaaa"]);
        assert_eq!(Ipld::Null.links().count(), 0);
    }

    #[test]
    fn maps_have_unique_keys() {
        let twice = vec![("k".to_owned(), Ipld::Null), ("k".to_owned(), Ipld::Bool(true))];
        assert_eq!(Map::new(twice), Err(IpldError::DuplicateKey("k".to_owned())));
    }

    #[test]
    fn a_value_is_small() {
        assert_eq!(size_of::<Ipld>(), 32, "a block of one-byte items becomes 32 times its size");
    }
}
