//! dag-pb (spec 02 §2): strict decoding without copying, canonical encoding.
//!
//! A decoded [`PbNode`] keeps the block's bytes and where each link lies in them, so that a
//! directory of a thousand entries costs one small table and no copies. Link order is kept as it
//! was read; only a writer sorts.

use bytes::Bytes;

use super::proto::{Fields, Value, WireError, put_bytes, put_field, put_varint, varint_len};
use crate::block::{BLOCK_LEN_MAX, Cid, CidError, cid_from_bytes};

/// Why bytes are not a dag-pb node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PbError {
    /// Not protobuf.
    #[error("dag-pb: {0}")]
    Wire(#[from] WireError),
    /// A field that the format does not have, or one of another wire type.
    #[error("dag-pb: unexpected field {0}")]
    Field(u64),
    /// A field twice, or fields out of order.
    #[error("dag-pb: field {0} is repeated or out of order")]
    Order(u64),
    /// A link without a target.
    #[error("dag-pb: a link has no hash")]
    NoHash,
    /// A link to something that is no CID.
    #[error("dag-pb: a link's hash is {0}")]
    Cid(#[from] CidError),
    /// More bytes than a block may have.
    #[error("dag-pb: {0} bytes are more than a block may have")]
    TooBig(usize),
}

/// One edge of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PbLink<'a> {
    /// The target.
    pub cid: Cid,
    /// The name; absent differs from empty in the encoding only.
    pub name: Option<&'a [u8]>,
    /// The author's claim of the cumulative size in bytes of what hangs below.
    pub tsize: Option<u64>,
}

impl PbLink<'_> {
    /// Returns the name, empty when absent.
    pub fn name(&self) -> &[u8] {
        self.name.unwrap_or_default()
    }
}

/// Where a link lies in the block; blocks are at most 2 MiB, so 32 bits are enough.
#[derive(Debug, Clone, Copy)]
struct LinkSpan {
    cid: (u32, u32),
    name: Option<(u32, u32)>,
    tsize: Option<u64>,
}

/// A decoded node.
#[derive(Debug, Clone)]
pub struct PbNode {
    bytes: Bytes,
    links: Vec<LinkSpan>,
    data: Option<(u32, u32)>,
}

impl PbNode {
    /// Decodes strictly: known fields only, each at most once, links' fields in order.
    ///
    /// # Errors
    /// [`PbError`] names the rule that is broken.
    pub fn decode(bytes: Bytes) -> Result<Self, PbError> {
        let (node, refused) = Self::decode_refusing(bytes)?;
        if refused.is_empty() { Ok(node) } else { Err(CidError::DigestTooLong.into()) }
    }

    /// Decodes like [`PbNode::decode`], but leaves out links to addresses with a digest that is too
    /// long, and returns their names: one such entry must not cost its whole directory.
    ///
    /// # Errors
    /// [`PbError`] names the rule that is broken.
    pub fn decode_refusing(bytes: Bytes) -> Result<(Self, Vec<Bytes>), PbError> {
        if bytes.len() > BLOCK_LEN_MAX {
            return Err(PbError::TooBig(bytes.len()));
        }
        let mut node = Self { bytes: bytes.clone(), links: Vec::new(), data: None };
        let mut refused = Vec::new();
        let mut last = 0;
        for field in Fields::new(&bytes, 0..bytes.len()) {
            match field? {
                (2, Value::Bytes(range)) => {
                    // Links, then data, or data, then links; never links on both sides.
                    if last == 1 && !(node.links.is_empty() && refused.is_empty()) {
                        return Err(PbError::Order(2));
                    }
                    match decode_link(&bytes, range)? {
                        (link, true) => node.links.push(link),
                        (link, false) => refused.push(link.name.map_or(Bytes::new(), |name| {
                            bytes.slice(name.0 as usize..name.1 as usize)
                        })),
                    }
                    last = 2;
                }
                (1, Value::Bytes(range)) => {
                    if node.data.is_some() {
                        return Err(PbError::Order(1));
                    }
                    node.data = Some(span(&range));
                    last = 1;
                }
                (field, _) => return Err(PbError::Field(field)),
            }
        }
        node.links.shrink_to_fit();
        Ok((node, refused))
    }

    /// Returns the number of links.
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// Returns link number `index`.
    ///
    /// # Panics
    /// When `index` is not below [`PbNode::link_count`].
    pub fn link(&self, index: usize) -> PbLink<'_> {
        let link = &self.links[index];
        let cid = cid_from_bytes(self.slice(link.cid)).expect("checked when it was decoded");
        PbLink { cid, name: link.name.map(|name| self.slice(name)), tsize: link.tsize }
    }

    /// Returns the name of link number `index` without decoding its target.
    ///
    /// # Panics
    /// When `index` is not below [`PbNode::link_count`].
    pub fn link_name(&self, index: usize) -> &[u8] {
        self.links[index].name.map(|name| self.slice(name)).unwrap_or_default()
    }

    /// Leaves out the links whose numbers `keep` refuses.
    pub(super) fn retain_links(&mut self, keep: impl Fn(usize) -> bool) {
        let mut index = 0..;
        self.links.retain(|_| index.next().is_some_and(&keep));
        self.links.shrink_to_fit();
    }

    /// Returns the links in the order of the block.
    pub fn links(&self) -> impl ExactSizeIterator<Item = PbLink<'_>> {
        (0..self.links.len()).map(|index| self.link(index))
    }

    /// Returns the data; absent differs from empty.
    pub fn data(&self) -> Option<Bytes> {
        self.data.map(|(start, end)| self.bytes.slice(start as usize..end as usize))
    }

    /// Returns the memory in bytes that this node keeps alive, for the budget of a cache.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.links.len() * size_of::<LinkSpan>()
    }

    fn slice(&self, (start, end): (u32, u32)) -> &[u8] {
        &self.bytes[start as usize..end as usize]
    }
}

fn span(range: &std::ops::Range<usize>) -> (u32, u32) {
    let offset = |at: usize| u32::try_from(at).expect("a block is at most 2 MiB");
    (offset(range.start), offset(range.end))
}

/// Decodes a link and tells whether its address may be followed.
fn decode_link(bytes: &[u8], range: std::ops::Range<usize>) -> Result<(LinkSpan, bool), PbError> {
    let mut cid = None;
    let mut is_acceptable = true;
    let mut name = None;
    let mut tsize = None;
    let mut last = 0;
    for field in Fields::new(bytes, range) {
        let (number, value) = field?;
        if number <= last {
            return Err(PbError::Order(number));
        }
        last = number;
        match (number, value) {
            (1, Value::Bytes(range)) => {
                match cid_from_bytes(&bytes[range.clone()]) {
                    Ok(_) => {}
                    Err(CidError::DigestTooLong) => is_acceptable = false,
                    Err(error) => return Err(error.into()),
                }
                cid = Some(span(&range));
            }
            (2, Value::Bytes(range)) => name = Some(span(&range)),
            (3, Value::Varint(value)) => tsize = Some(value),
            (field, _) => return Err(PbError::Field(field)),
        }
    }
    Ok((LinkSpan { cid: cid.ok_or(PbError::NoHash)?, name, tsize }, is_acceptable))
}

/// Encodes a node canonically: links in the order given, then data (spec 02 §2).
///
/// A writer of directories sorts by name first. Links of UnixFS always carry a name, even an empty
/// one, and a Tsize, even 0: leaving them out changes the CID.
pub fn encode(links: &[PbLink<'_>], data: Option<&[u8]>) -> Vec<u8> {
    let len: usize = links.iter().map(encoded_link_len).sum();
    let mut out = Vec::with_capacity(len + data.map_or(0, |data| data.len() + 6));
    for link in links {
        out.push(0x12);
        put_varint(&mut out, link_body_len(link) as u64);
        put_bytes(&mut out, 0x0a, &link.cid.to_bytes());
        if let Some(name) = link.name {
            put_bytes(&mut out, 0x12, name);
        }
        if let Some(tsize) = link.tsize {
            put_field(&mut out, 0x18, tsize);
        }
    }
    if let Some(data) = data {
        put_bytes(&mut out, 0x0a, data);
    }
    out
}

/// Returns what one link adds to the length in bytes of an encoded node.
pub fn encoded_link_len(link: &PbLink<'_>) -> usize {
    field_len(link_body_len(link))
}

fn link_body_len(link: &PbLink<'_>) -> usize {
    field_len(link.cid.encoded_len())
        + link.name.map_or(0, |name| field_len(name.len()))
        + link.tsize.map_or(0, |tsize| 1 + varint_len(tsize))
}

/// Returns the length in bytes of a length-delimited field with a body of `len` bytes.
pub(super) fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

#[cfg(test)]
mod tests {
    use multibase::Base;

    use super::*;
    use crate::block::Block;

    /// dir {bar→foo, foo}, spec 12 §1.
    const DIR: &str = "122b0a22122047d9b0e5086c1a7981760bf2c33b885b188e58104adab850efe7090b0b009560\
        12036261721809122b0a221220e9334d3b1ef698a1085c400c24d307f8ad7793973959302bda9e6a9288584f1e\
        1203666f6f18100a020801";

    fn bytes(hex: &str) -> Bytes {
        let hex: String = hex.chars().filter(|c| !c.is_whitespace()).collect();
        Base::Base16Lower.decode(hex).unwrap().into()
    }

    #[test]
    fn a_directory_decodes_and_encodes_to_itself() {
        let node = PbNode::decode(bytes(DIR)).unwrap();
        assert_eq!(node.link_count(), 2);
        assert_eq!(node.link(0).name(), b"bar");
        assert_eq!(node.link(1).tsize, Some(16));
        assert_eq!(node.data().unwrap(), bytes("0801"));
        let links: Vec<_> = node.links().collect();
        let again = encode(&links, node.data().as_deref());
        assert_eq!(again, bytes(DIR));
        let cid = *Block::hash_v0(again.into()).unwrap().cid();
        assert_eq!(cid.to_string(), "QmWvY6FaqFMS89YAQ9NAPjVP4WZKA1qbHbicc9HeSKQTgt");
    }

    #[test]
    fn lengths_are_known_before_encoding() {
        let node = PbNode::decode(bytes(DIR)).unwrap();
        let sum: usize = node.links().map(|link| encoded_link_len(&link)).sum();
        assert_eq!(sum + 4, bytes(DIR).len());
    }

    #[test]
    fn the_empty_block_and_data_before_links_are_nodes() {
        let empty = PbNode::decode(Bytes::new()).unwrap();
        assert_eq!((empty.link_count(), empty.data()), (0, None));
        assert_eq!(PbNode::decode(bytes("0a00")).unwrap().data(), Some(Bytes::new()));
        let swapped = PbNode::decode(bytes("0a0208011206 0a0401550000")).unwrap();
        assert_eq!(swapped.link_count(), 1);
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let check = |hex: &str, error: PbError| {
            assert_eq!(PbNode::decode(bytes(hex)).unwrap_err(), error, "{hex}");
        };
        check("0a0008", PbError::Wire(WireError::Varint(3)));
        check("0a05", PbError::Wire(WireError::Cut(2)));
        check("0a000a00", PbError::Order(1));
        check("1a00", PbError::Field(3));
        check("0801", PbError::Field(1));
        check("1200", PbError::NoHash);
        check("12020a00", PbError::Cid(CidError::Bytes("bad varint")));
        check("12081200 0a0401550000", PbError::Order(1));
        check("120c 0a0401550000 0a0401550000", PbError::Order(1));
        check("1206 0a0401550000 0a00 1206 0a0401550000", PbError::Order(2));
        check("0b", PbError::Wire(WireError::WireType { kind: 3, at: 0 }));
    }
}
