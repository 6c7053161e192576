//! What belongs to a block and does not stand in its file, because it follows from what does.
//!
//! The block of a dag-pb leaf is a few bytes, a range of a file, and a few bytes more. Those around it
//! are rebuilt from the length of the range; that this gives the block byte for byte is checked before a
//! block is stored so.

use bytes::Bytes;

use crate::block::{Block, Cid, codecs};
use crate::codec::dag_pb::PbNode;
use crate::codec::unixfs::{Kind, UnixFs, leaf_frame, leaf_node_len};

/// How a block is made of the bytes in its file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Framing {
    /// It is these bytes.
    #[default]
    Bare = 0,
    /// It is a dag-pb node of UnixFS type File around them.
    PbFile = 1,
    /// It is one of type Raw.
    PbRaw = 2,
}

/// The bytes of a block that are not in its file.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) head: Vec<u8>,
    pub(super) tail: Vec<u8>,
}

impl Framing {
    /// Returns the framing with this number.
    pub(super) fn of_code(code: u16) -> Option<Self> {
        [Self::Bare, Self::PbFile, Self::PbRaw].into_iter().find(|framing| *framing as u16 == code)
    }

    /// Returns how a leaf of a file is made of content, and that content; `None` when it is no leaf or
    /// cannot be rebuilt from its content.
    pub(super) fn of_leaf(leaf: &Block) -> Option<(Self, Bytes)> {
        match leaf.cid().codec() {
            codecs::RAW => Some((Self::Bare, leaf.data().clone())),
            codecs::DAG_PB => Self::of_pb(leaf.data()),
            _ => None,
        }
    }

    fn of_pb(block: &Bytes) -> Option<(Self, Bytes)> {
        let message = UnixFs::decode(&PbNode::decode(block.clone()).ok()?.data()?).ok()?;
        let framing = match message.kind {
            Kind::File => Self::PbFile,
            Kind::Raw => Self::PbRaw,
            _ => return None,
        };
        let content = message.data.filter(|content| !content.is_empty())?;
        let frame = framing.frame(u32::try_from(content.len()).ok()?);
        let rest = block.strip_prefix(&frame.head[..])?.strip_suffix(&frame.tail[..])?;
        (rest == content).then_some((framing, content))
    }

    /// Tells whether this is how a leaf with that CID lies in a file.
    pub(super) fn fits(self, cid: &Cid) -> bool {
        (self != Self::Bare) == (cid.codec() == codecs::DAG_PB)
    }

    /// Returns the length of the block around `len` bytes of a file.
    pub(super) fn block_len(self, len: u32) -> u64 {
        self.kind().map_or(len.into(), |kind| leaf_node_len(kind, len.into()))
    }

    /// Returns what is around `len` bytes of a file.
    pub(super) fn frame(self, len: u32) -> Frame {
        let Some(kind) = self.kind() else { return Frame::default() };
        let (head, tail) = leaf_frame(kind, len.into());
        Frame { head, tail }
    }

    fn kind(self) -> Option<Kind> {
        match self {
            Self::Bare => None,
            Self::PbFile => Some(Kind::File),
            Self::PbRaw => Some(Kind::Raw),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::HashFn;
    use crate::codec::dag_pb::{self, PbLink};
    use crate::codec::unixfs::Mtime;

    fn framing(data: Vec<u8>) -> Option<(Framing, Bytes)> {
        Framing::of_leaf(&Block::hash(codecs::DAG_PB, HashFn::SHA2_256, data.into()).unwrap())
    }

    fn leaf(kind: Kind, len: usize) -> UnixFs {
        let data = Some(Bytes::from(vec![7; len]));
        UnixFs { data, file_size: Some(len as u64), ..UnixFs::new(kind) }
    }

    #[test]
    fn leaves_as_they_are_imported_are_rebuilt_byte_for_byte() {
        for (kind, expected) in [(Kind::File, Framing::PbFile), (Kind::Raw, Framing::PbRaw)] {
            for len in [1, 2, 111, 112, 113, 127, 128, 16_370, 16_384, 262_144, 2_000_000] {
                let block = leaf(kind, len).encode_node();
                let (found, content) = framing(block.clone()).unwrap();
                assert_eq!((found, content.len()), (expected, len));
                let Frame { head, tail } = found.frame(u32::try_from(len).unwrap());
                assert!([&head[..], &content, &tail].concat() == block, "{kind:?} {len}");
            }
        }
    }

    #[test]
    fn what_says_more_or_otherwise_is_no_framed_leaf() {
        let mtime = Some(Mtime { seconds: 1, nanos: 0 });
        let link = PbLink {
            cid: *Block::hash_v0(Bytes::from_static(b"x")).unwrap().cid(),
            name: Some(b""),
            tsize: Some(1),
        };
        let encoded = leaf(Kind::File, 50).encode();
        let mut long_form = leaf(Kind::File, 50).encode_node();
        long_form.splice(1..2, [long_form[1] | 0x80, 0]);
        for data in [
            UnixFs { mtime, ..leaf(Kind::File, 50) }.encode_node(),
            UnixFs { mode: Some(0o644), ..leaf(Kind::Raw, 50) }.encode_node(),
            UnixFs { file_size: None, ..leaf(Kind::File, 50) }.encode_node(),
            UnixFs { file_size: Some(51), ..leaf(Kind::File, 50) }.encode_node(),
            leaf(Kind::Directory, 50).encode_node(),
            leaf(Kind::Symlink, 50).encode_node(),
            leaf(Kind::File, 0).encode_node(),
            dag_pb::encode(&[link], Some(&encoded)),
            dag_pb::encode(&[], Some(&[&encoded[..], &[0x28, 1]].concat())),
            dag_pb::encode(&[], Some(&[&encoded[..], &[0x12, 1, 9]].concat())),
            dag_pb::encode(&[], None),
            long_form,
            b"no node".to_vec(),
        ] {
            assert_eq!(framing(data.clone()), None, "{data:02x?}");
        }
    }
}
