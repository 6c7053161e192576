//! The UnixFS message inside a dag-pb node's data (spec 03 §1, §3).
//!
//! Reading is as lenient as protobuf: unknown fields are passed over, the last of a repeated field
//! wins, block sizes come packed or not. Writing puts the fields in tag order, as kubo does.

use bytes::Bytes;

use super::dag_pb::field_len;
use super::proto::{Fields, Value, WireError, packed, put_bytes, put_field, put_varint};

/// Bits of `mode` that mean something: permissions, sticky, setgid, setuid.
pub const MODE_MASK: u32 = 0o7777;

/// Most bytes of a part of a leaf's frame, for lengths of 35 bits.
const FRAME_PART_MAX: usize = 16;

/// Nanoseconds of a time are fewer than this.
pub(crate) const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// Why data is not UnixFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnixFsError {
    /// Not protobuf.
    #[error("unixfs: {0}")]
    Wire(#[from] WireError),
    /// A known field has another wire type.
    #[error("unixfs: field {0} has the wrong type")]
    Field(u64),
    /// The required type is missing.
    #[error("unixfs: the type is missing")]
    NoType,
    /// A type that UnixFS does not have.
    #[error("unixfs: unknown type {0}")]
    Type(u64),
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file's leaf, in trickle layouts.
    Raw = 0,
    /// A directory in one node.
    Directory = 1,
    /// A file.
    File = 2,
    /// Obsolete; its first link is the content.
    Metadata = 3,
    /// A symbolic link.
    Symlink = 4,
    /// A piece of a sharded directory.
    HamtShard = 5,
}

impl Kind {
    fn from_code(code: u64) -> Result<Self, UnixFsError> {
        Ok(match code {
            0 => Self::Raw,
            1 => Self::Directory,
            2 => Self::File,
            3 => Self::Metadata,
            4 => Self::Symlink,
            5 => Self::HamtShard,
            _ => return Err(UnixFsError::Type(code)),
        })
    }
}

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtime {
    /// Seconds since the epoch, negative before it.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// A decoded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixFs {
    /// What the node is.
    pub kind: Kind,
    /// Content, symlink target or bit field; absent differs from empty in the encoding only.
    pub data: Option<Bytes>,
    /// Claimed length of the file in bytes.
    pub file_size: Option<u64>,
    /// Claimed length in bytes of what hangs below each link.
    pub block_sizes: Vec<u64>,
    /// Hash function of a HAMT.
    pub hash_type: Option<u64>,
    /// Width of a HAMT.
    pub fanout: Option<u64>,
    /// Permissions as stored; interpret with [`MODE_MASK`].
    pub mode: Option<u32>,
    /// Modification time; malformed nanoseconds make it absent, as in boxo.
    pub mtime: Option<Mtime>,
}

impl UnixFs {
    /// Returns a message of `kind` with nothing else in it.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            data: None,
            file_size: None,
            block_sizes: Vec::new(),
            hash_type: None,
            fanout: None,
            mode: None,
            mtime: None,
        }
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// [`UnixFsError`] names what is wrong.
    pub fn decode(bytes: &Bytes) -> Result<Self, UnixFsError> {
        let mut kind = None;
        let mut message = Self::new(Kind::File);
        for field in Fields::new(bytes, 0..bytes.len()) {
            match field? {
                (1, Value::Varint(code)) => kind = Some(Kind::from_code(code)?),
                (2, Value::Bytes(range)) => message.data = Some(bytes.slice(range)),
                (3, Value::Varint(size)) => message.file_size = Some(size),
                (4, Value::Varint(size)) => message.block_sizes.push(size),
                (4, Value::Bytes(range)) => message.block_sizes.extend(packed(bytes, range)?),
                (5, Value::Varint(code)) => message.hash_type = Some(code),
                (6, Value::Varint(width)) => message.fanout = Some(width),
                (7, Value::Varint(mode)) => message.mode = Some(low_half(mode)),
                (8, Value::Bytes(range)) => message.mtime = decode_mtime(bytes, range)?,
                (field @ 1..=8, _) => return Err(UnixFsError::Field(field)),
                _ => {}
            }
        }
        message.kind = kind.ok_or(UnixFsError::NoType)?;
        message.block_sizes.shrink_to_fit();
        Ok(message)
    }

    /// Encodes the message, fields in tag order.
    pub fn encode(&self) -> Vec<u8> {
        let data_len = self.data.as_ref().map_or(0, Bytes::len);
        let mut out = Vec::with_capacity(data_len + self.block_sizes.len() * 5 + 64);
        put_field(&mut out, 0x08, self.kind as u64);
        if let Some(data) = &self.data {
            put_bytes(&mut out, 0x12, data);
        }
        if let Some(size) = self.file_size {
            put_field(&mut out, 0x18, size);
        }
        for &size in &self.block_sizes {
            put_field(&mut out, 0x20, size);
        }
        if let Some(code) = self.hash_type {
            put_field(&mut out, 0x28, code);
        }
        if let Some(width) = self.fanout {
            put_field(&mut out, 0x30, width);
        }
        if let Some(mode) = self.mode {
            put_field(&mut out, 0x38, u64::from(mode));
        }
        if let Some(mtime) = self.mtime {
            put_bytes(&mut out, 0x42, &encode_mtime(mtime));
        }
        out
    }
}

impl UnixFs {
    /// Encodes the dag-pb node that holds this message and has no links: what
    /// [`dag_pb::encode`](super::dag_pb::encode) gives, with the content copied once and not twice.
    pub fn encode_node(&self) -> Vec<u8> {
        let data = self.data.as_deref();
        let rest = Self { data: None, ..self.clone() }.encode();
        // The content is the second field; the type before it takes two bytes.
        let (kind, rest) = rest.split_at(2);
        let len = kind.len() + rest.len() + data.map_or(0, |data| field_len(data.len()));
        let mut out = Vec::with_capacity(field_len(len));
        out.push(0x0a);
        put_varint(&mut out, len as u64);
        out.extend_from_slice(kind);
        if let Some(data) = data {
            put_bytes(&mut out, 0x12, data);
        }
        out.extend_from_slice(rest);
        out
    }
}

/// Returns what stands before and after the content in the dag-pb node of a leaf that has `len` bytes,
/// at least one, states that as its length, and nothing else: what [`UnixFs::encode_node`] puts there.
pub fn leaf_frame(kind: Kind, len: u64) -> (Vec<u8>, Vec<u8>) {
    let mut tail = Vec::with_capacity(FRAME_PART_MAX);
    put_field(&mut tail, 0x18, len);
    let mut content = Vec::with_capacity(FRAME_PART_MAX);
    put_field(&mut content, 0x08, kind as u64);
    content.push(0x12);
    put_varint(&mut content, len);
    let mut head = Vec::with_capacity(FRAME_PART_MAX);
    head.push(0x0a);
    put_varint(&mut head, content.len() as u64 + len + tail.len() as u64);
    head.extend(content);
    (head, tail)
}

/// Returns the length of the dag-pb node of such a leaf, at most [`u64::MAX`].
pub fn leaf_node_len(kind: Kind, len: u64) -> u64 {
    let (head, tail) = leaf_frame(kind, len);
    len.saturating_add((head.len() + tail.len()) as u64)
}

/// A uint32 in protobuf is the low half of its varint.
fn low_half(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default()
}

fn decode_mtime(bytes: &[u8], range: std::ops::Range<usize>) -> Result<Option<Mtime>, UnixFsError> {
    let mut seconds = None;
    let mut nanos = None;
    for field in Fields::new(bytes, range) {
        match field? {
            (1, Value::Varint(value)) => seconds = Some(value.cast_signed()),
            (2, Value::Fixed32(value)) => nanos = Some(value),
            (field @ 1..=2, _) => return Err(UnixFsError::Field(field)),
            _ => {}
        }
    }
    Ok(match (seconds, nanos) {
        (Some(seconds), None) => Some(Mtime { seconds, nanos: 0 }),
        (Some(seconds), Some(nanos @ 1..NANOS_PER_SECOND)) => Some(Mtime { seconds, nanos }),
        _ => None,
    })
}

fn encode_mtime(mtime: Mtime) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put_field(&mut out, 0x08, mtime.seconds.cast_unsigned());
    if mtime.nanos > 0 {
        out.push(0x15);
        out.extend_from_slice(&mtime.nanos.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use multibase::Base;

    use super::*;

    fn bytes(hex: &str) -> Bytes {
        Base::Base16Lower.decode(hex.replace(' ', "")).unwrap().into()
    }

    #[test]
    fn a_file_with_metadata_is_the_one_of_the_spec() {
        let file = UnixFs {
            data: Some(Bytes::from_static(b"x")),
            file_size: Some(1),
            mode: Some(0o755),
            mtime: Some(Mtime { seconds: 1_700_000_000, nanos: 123_456_789 }),
            ..UnixFs::new(Kind::File)
        };
        let encoded = bytes("0802 120178 1801 38ed03 420b 0880e2cfaa06 1515cd5b07");
        assert_eq!(file.encode(), encoded);
        assert_eq!(UnixFs::decode(&encoded).unwrap(), file);
    }

    #[test]
    fn a_node_without_links_is_encoded_as_by_dag_pb() {
        for data in [None, Some(Bytes::new()), Some(Bytes::from(vec![7; 300]))] {
            let mtime = Some(Mtime { seconds: 5, nanos: 6 });
            let message = UnixFs { data, file_size: Some(300), mtime, ..UnixFs::new(Kind::File) };
            let node = crate::codec::dag_pb::encode(&[], Some(&message.encode()));
            assert_eq!(message.encode_node(), node);
        }
    }

    #[test]
    fn a_time_before_the_epoch_takes_ten_bytes() {
        let dir =
            UnixFs { mtime: Some(Mtime { seconds: -1, nanos: 0 }), ..UnixFs::new(Kind::Directory) };
        let encoded = bytes("0801 420b 08ffffffffffffffffff01");
        assert_eq!(dir.encode(), encoded);
        assert_eq!(UnixFs::decode(&encoded).unwrap(), dir);
    }

    #[test]
    fn malformed_nanoseconds_make_the_time_absent() {
        for nanos in [0, NANOS_PER_SECOND, u32::MAX] {
            let mut message = bytes("0802 4207 0801 15").to_vec();
            message.extend(nanos.to_le_bytes());
            assert_eq!(UnixFs::decode(&message.into()).unwrap().mtime, None, "{nanos}");
        }
    }

    #[test]
    fn block_sizes_come_packed_or_not() {
        let plain = UnixFs::decode(&bytes("0802 2005 2006")).unwrap();
        let packed = UnixFs::decode(&bytes("0802 22020506")).unwrap();
        assert_eq!(plain, packed);
        assert_eq!(plain.block_sizes, [5, 6]);
    }

    #[test]
    fn what_is_not_unixfs_is_refused() {
        let check = |hex: &str, error| assert_eq!(UnixFs::decode(&bytes(hex)), Err(error), "{hex}");
        check("", UnixFsError::NoType);
        check("0806", UnixFsError::Type(6));
        check("08", UnixFsError::Wire(WireError::Varint(1)));
        check("0802 1000", UnixFsError::Field(2));
        check("0802 1205", UnixFsError::Wire(WireError::Cut(4)));
    }
}
