//! The CARv1 framing of packs (spec 04): a fixed header, then `uvarint(len) CID data` sections.

use crate::block::{BLOCK_LEN_MAX, Cid, VARINT_LEN_MAX, cid_prefix};
use crate::codec::car::{CID_LEN_MAX, section_header};

/// The header of every pack: version 1 and the placeholder root, because some readers refuse an
/// archive without roots (spec 04).
pub(in crate::store) const PACK_HEADER: [u8; 26] =
    *b"\x19\xa2eroots\x81\xd8\x2aE\x00\x01\x55\x00\x00gversion\x01";

/// Longest length varint and CID in bytes.
pub(in crate::store) const SECTION_HEAD_LEN_MAX: usize = VARINT_LEN_MAX + CID_LEN_MAX;

/// The part of a section in front of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct SectionHead {
    pub(in crate::store) cid: Cid,
    /// Bytes of length varint and CID.
    pub(in crate::store) head_len: u16,
    /// Length of the block in bytes, at most `BLOCK_LEN_MAX`.
    pub(in crate::store) data_len: u32,
}

/// Parses the head at the front of `bytes`; `None` when there is none or a limit is broken.
pub(in crate::store) fn parse_head(bytes: &[u8]) -> Option<SectionHead> {
    let (varint_len, section_len) = section_header(bytes)?;
    let (cid, cid_len) = cid_prefix(&bytes[varint_len..]).ok()?;
    let data_len = section_len.checked_sub(cid_len).filter(|len| *len <= BLOCK_LEN_MAX)?;
    let head_len = u16::try_from(varint_len + cid_len).ok()?;
    Some(SectionHead { cid, head_len, data_len: u32::try_from(data_len).ok()? })
}

/// Appends the head of a section to `out` and returns its length.
pub(in crate::store) fn push_head(cid: &Cid, data_len: usize, out: &mut Vec<u8>) -> usize {
    let before = out.len();
    let cid = cid.to_bytes();
    let mut buffer = unsigned_varint::encode::u64_buffer();
    let section_len = (cid.len() + data_len) as u64;
    out.extend_from_slice(unsigned_varint::encode::u64(section_len, &mut buffer));
    out.extend_from_slice(&cid);
    out.len() - before
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::block::{Block, HashFn, codecs};

    #[test]
    fn the_header_is_the_gateways_empty_archive() {
        let hex = multibase::Base::Base16Lower.encode(PACK_HEADER);
        assert_eq!(hex, "19a265726f6f747381d82a4500015500006776657273696f6e01");
    }

    #[test]
    fn heads_round_trip() {
        let blake = HashFn::by_name("blake2b-512").unwrap();
        for block in [
            Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from_static(b"hello world\n")),
            Block::hash_v0(Bytes::new()),
            Block::hash(codecs::DAG_CBOR, blake, Bytes::from(vec![1; 70_000])),
        ] {
            let block = block.unwrap();
            let mut bytes = Vec::new();
            let head_len = push_head(block.cid(), block.data().len(), &mut bytes);
            bytes.extend([0xff; 9]);
            let head = parse_head(&bytes).unwrap();
            assert_eq!((head.cid, usize::from(head.head_len)), (*block.cid(), head_len));
            assert_eq!(head.data_len as usize, block.data().len());
        }
    }

    #[test]
    fn the_worked_example_of_the_spec() {
        let block =
            Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from_static(b"hello world\n"));
        let mut bytes = Vec::new();
        push_head(block.unwrap().cid(), 12, &mut bytes);
        assert_eq!(bytes[..5], [0x30, 0x01, 0x55, 0x12, 0x20]);
    }

    #[test]
    fn what_breaks_a_limit_is_no_head() {
        let cid = *Block::hash_v0(Bytes::new()).unwrap().cid();
        for (data_len, ok) in [(BLOCK_LEN_MAX, true), (BLOCK_LEN_MAX + 1, false)] {
            let mut bytes = Vec::new();
            push_head(&cid, data_len, &mut bytes);
            assert_eq!(parse_head(&bytes).is_some(), ok, "{data_len}");
            assert_eq!(parse_head(&bytes[..20]), None, "cut short");
        }
        assert_eq!(parse_head(&[0; 64]), None);
        assert_eq!(parse_head(&[]), None);
        let mut short = vec![10];
        short.extend(cid.to_bytes());
        assert_eq!(parse_head(&short), None, "a section shorter than its CID");
    }
}
