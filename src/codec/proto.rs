//! The protobuf wire format, as much as dag-pb, UnixFS and bitswap need (spec 02 §2, 03 §1, 05 §2).

use std::ops::Range;

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64,
    /// Wire type 2, as a range of the message.
    Bytes(Range<usize>),
    /// Wire type 5.
    Fixed32(u32),
}

/// Why a message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A varint is cut, over 64 bits, or too long.
    #[error("bad varint at byte {0}")]
    Varint(usize),
    /// A field reaches beyond the end of the message.
    #[error("field cut short at byte {0}")]
    Cut(usize),
    /// A wire type that protobuf does not have (any more).
    #[error("wire type {kind} at byte {at}")]
    WireType {
        /// The wire type.
        kind: u8,
        /// Where its tag is.
        at: usize,
    },
}

/// Reads the fields of one message in order; yields nothing after an error.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8], range: Range<usize>) -> Self {
        Self { bytes, at: range.start, end: range.end }
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let start = self.at;
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes[..self.end].get(self.at).ok_or(WireError::Varint(start))?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                return Err(WireError::Varint(start));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Varint(start))
    }

    fn take(&mut self, len: u64) -> Result<Range<usize>, WireError> {
        let start = self.at;
        let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len));
        match end {
            Some(end) if end <= self.end => {
                self.at = end;
                Ok(start..end)
            }
            _ => Err(WireError::Cut(start)),
        }
    }

    fn field(&mut self) -> Result<(u64, Value), WireError> {
        let at = self.at;
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => {
                let range = self.take(4)?;
                let bytes = &self.bytes[range];
                Value::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            kind => return Err(WireError::WireType { kind: (kind & 7) as u8, at }),
        };
        Ok((tag >> 3, value))
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<(u64, Value), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.end;
        }
        Some(field)
    }
}

/// Reads a packed run of varints.
pub(super) fn packed(bytes: &[u8], range: Range<usize>) -> Result<Vec<u64>, WireError> {
    let mut fields = Fields::new(bytes, range);
    let mut values = Vec::new();
    while fields.at < fields.end {
        values.push(fields.varint()?);
    }
    Ok(values)
}

/// Appends a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, value: u64) {
    let mut buffer = unsigned_varint::encode::u64_buffer();
    out.extend_from_slice(unsigned_varint::encode::u64(value, &mut buffer));
}

/// Appends a length-delimited field.
pub(super) fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a varint field.
pub(super) fn put_field(out: &mut Vec<u8>, tag: u8, value: u64) {
    out.push(tag);
    put_varint(out, value);
}

/// Returns the length in bytes of a varint.
pub(super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}
