//! dag-cbor (spec 02 §3): strict in both directions.
//!
//! Decoding accepts exactly the canonical form (shortest integers and lengths, keys unique and
//! sorted by length and then bytes, floats of 64 bits and finite, tag 42 only, one item), so that
//! bytes which decode always encode to themselves and keep their CID. Historic blocks in other forms
//! remain readable as the bytes they are.
//!
//! Our own code rather than `serde_ipld_dagcbor`: its `Cid` ends at digests of 64 bytes (inlined
//! blocks have up to 128), it refuses −0.0, it takes map keys of indefinite length, and the glue
//! would be as long as the codec. It serves as the judge in the fuzz target.

use super::ipld::{DEPTH_MAX, Ipld, IpldError, Map, check_len, key_order};
use crate::block::{Cid, cid_from_bytes};

/// Most items that memory is taken for on the word of a length field alone; only the at most
/// [`DEPTH_MAX`] lists that are still open can hold such claims.
const PREALLOCATED_ITEMS_MAX: usize = 1024;

/// Head of tag 42, the only tag: a CID with a zero byte before it.
const LINK_TAG: [u8; 2] = [0xd8, 0x2a];
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const FLOAT_64: u8 = 0xfb;

/// Major types, the three upper bits of an item's first byte.
mod major {
    pub(super) const UNSIGNED: u8 = 0;
    pub(super) const NEGATIVE: u8 = 1;
    pub(super) const BYTES: u8 = 2;
    pub(super) const TEXT: u8 = 3;
    pub(super) const LIST: u8 = 4;
    pub(super) const MAP: u8 = 5;
    pub(super) const TAG: u8 = 6;
}

/// Returns the value that `bytes` hold.
///
/// # Errors
/// [`IpldError::TooBig`] above the size of a block; [`IpldError::Cbor`] for anything that is not
/// canonical, and for nesting deeper than [`DEPTH_MAX`].
pub fn decode(bytes: &[u8]) -> Result<Ipld, IpldError> {
    check_len(bytes)?;
    let mut decoder = Decoder { bytes, at: 0 };
    let value = decoder.value(0)?;
    if decoder.at < bytes.len() {
        return Err(IpldError::Cbor { at: decoder.at, reason: "bytes after the item" });
    }
    Ok(value)
}

/// Returns the canonical bytes of `value`.
///
/// # Errors
/// [`IpldError::Inexpressible`] for a float that is not finite and an integer outside −2⁶⁴ to 2⁶⁴−1.
pub fn encode(value: &Ipld) -> Result<Vec<u8>, IpldError> {
    let mut out = Vec::new();
    put_value(&mut out, value)?;
    Ok(out)
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    fn value(&mut self, depth: usize) -> Result<Ipld, IpldError> {
        let start = self.at;
        let fail = |reason| Err(IpldError::Cbor { at: start, reason });
        if depth > DEPTH_MAX {
            return fail("nested too deep");
        }
        let [head] = self.array()?;
        match head {
            FALSE => return Ok(Ipld::Bool(false)),
            TRUE => return Ok(Ipld::Bool(true)),
            NULL => return Ok(Ipld::Null),
            FLOAT_64 => return self.float(start),
            _ => {}
        }
        match head >> 5 {
            major::UNSIGNED => Ok(Ipld::Integer(self.argument(start, head)?.into())),
            major::NEGATIVE => Ok(Ipld::Integer(-1 - i128::from(self.argument(start, head)?))),
            major::BYTES => Ok(Ipld::Bytes(self.string(start, head)?.to_vec())),
            major::TEXT => Ok(Ipld::String(self.text(start, head)?.to_owned())),
            major::LIST => self.list(start, head, depth),
            major::MAP => self.map(start, head, depth),
            major::TAG => self.link(start, head),
            _ => fail("a simple value or a float of fewer than 64 bits"),
        }
    }

    fn list(&mut self, start: usize, head: u8, depth: usize) -> Result<Ipld, IpldError> {
        let len = self.len(start, head)?;
        let mut items = Vec::with_capacity(len.min(PREALLOCATED_ITEMS_MAX));
        for _ in 0..len {
            items.push(self.value(depth + 1)?);
        }
        Ok(Ipld::List(items))
    }

    fn map(&mut self, start: usize, head: u8, depth: usize) -> Result<Ipld, IpldError> {
        let len = self.len(start, head)?;
        let mut entries: Vec<(String, Ipld)> = Vec::with_capacity(len.min(PREALLOCATED_ITEMS_MAX));
        for _ in 0..len {
            let key_start = self.at;
            let fail = |reason| Err(IpldError::Cbor { at: key_start, reason });
            let [key_head] = self.array()?;
            if key_head >> 5 != major::TEXT {
                return fail("a map key that is no text");
            }
            let key = self.text(key_start, key_head)?;
            match entries.last().map(|(last, _)| key_order(last, key)) {
                Some(std::cmp::Ordering::Equal) => return fail("a map key that appears twice"),
                Some(std::cmp::Ordering::Greater) => return fail("map keys out of order"),
                _ => entries.push((key.to_owned(), self.value(depth + 1)?)),
            }
        }
        Ok(Ipld::Map(Map::new(entries)?))
    }

    fn link(&mut self, start: usize, head: u8) -> Result<Ipld, IpldError> {
        let fail = |reason| Err(IpldError::Cbor { at: start, reason });
        let [tag, bytes_head] = self.array()?;
        if [head, tag] != LINK_TAG {
            return fail("a tag other than 42");
        }
        if bytes_head >> 5 != major::BYTES {
            return fail("a link that is no byte string");
        }
        match self.string(start, bytes_head)?.split_first() {
            Some((0, cid)) => match cid_from_bytes(cid) {
                Ok(cid) => Ok(cid.into()),
                Err(_) => fail("a link that is no CID"),
            },
            _ => fail("a link without its leading zero byte"),
        }
    }

    fn float(&mut self, start: usize) -> Result<Ipld, IpldError> {
        let value = f64::from_be_bytes(self.array()?);
        if !value.is_finite() {
            return Err(IpldError::Cbor { at: start, reason: "a float that is not finite" });
        }
        Ok(Ipld::Float(value))
    }

    fn text(&mut self, start: usize, head: u8) -> Result<&'a str, IpldError> {
        std::str::from_utf8(self.string(start, head)?)
            .map_err(|_| IpldError::Cbor { at: start, reason: "text that is not UTF-8" })
    }

    fn string(&mut self, start: usize, head: u8) -> Result<&'a [u8], IpldError> {
        let len = self.len(start, head)?;
        self.take(len)
    }

    /// Reads a count of bytes, items or entries; each takes at least one byte, so a count above what
    /// is left is refused before anything is allocated.
    fn len(&mut self, start: usize, head: u8) -> Result<usize, IpldError> {
        let claimed = self.argument(start, head)?;
        let left = self.bytes.len() - self.at;
        usize::try_from(claimed)
            .ok()
            .filter(|len| *len <= left)
            .ok_or(IpldError::Cbor { at: start, reason: "cut short" })
    }

    /// Reads the number that follows an item's first byte, which must have its shortest form.
    fn argument(&mut self, start: usize, head: u8) -> Result<u64, IpldError> {
        let (value, shortest_from) = match head & 0x1f {
            small @ 0..24 => (u64::from(small), 0),
            24 => (u8::from_be_bytes(self.array()?).into(), 24),
            25 => (u16::from_be_bytes(self.array()?).into(), 1 << 8),
            26 => (u32::from_be_bytes(self.array()?).into(), 1 << 16),
            27 => (u64::from_be_bytes(self.array()?), 1 << 32),
            31 => return Err(IpldError::Cbor { at: start, reason: "an indefinite length" }),
            _ => return Err(IpldError::Cbor { at: start, reason: "a reserved length" }),
        };
        if value < shortest_from {
            return Err(IpldError::Cbor { at: start, reason: "a number not in its shortest form" });
        }
        Ok(value)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IpldError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], IpldError> {
        let taken = self.bytes[self.at..]
            .get(..len)
            .ok_or(IpldError::Cbor { at: self.at, reason: "cut short" })?;
        self.at += len;
        Ok(taken)
    }
}

fn put_value(out: &mut Vec<u8>, value: &Ipld) -> Result<(), IpldError> {
    match value {
        Ipld::Null => out.push(NULL),
        Ipld::Bool(value) => out.push(if *value { TRUE } else { FALSE }),
        Ipld::Integer(value) => put_integer(out, *value)?,
        Ipld::Float(value) if value.is_finite() => {
            out.push(FLOAT_64);
            out.extend(value.to_be_bytes());
        }
        Ipld::Float(_) => return Err(IpldError::Inexpressible("a float that is not finite")),
        Ipld::String(text) => put_string(out, major::TEXT, text.as_bytes()),
        Ipld::Bytes(bytes) => put_string(out, major::BYTES, bytes),
        Ipld::List(items) => {
            put_head(out, major::LIST, items.len() as u64);
            items.iter().try_for_each(|item| put_value(out, item))?;
        }
        Ipld::Map(map) => {
            put_head(out, major::MAP, map.len() as u64);
            for (key, value) in map.iter() {
                put_string(out, major::TEXT, key.as_bytes());
                put_value(out, value)?;
            }
        }
        Ipld::Link(cid) => put_link(out, cid),
    }
    Ok(())
}

fn put_integer(out: &mut Vec<u8>, value: i128) -> Result<(), IpldError> {
    let outside = |_| IpldError::Inexpressible("an integer outside −2⁶⁴ to 2⁶⁴−1");
    if value < 0 {
        // Bitwise not is −1 − value: the form in which CBOR carries a negative number.
        put_head(out, major::NEGATIVE, u64::try_from(!value).map_err(outside)?);
    } else {
        put_head(out, major::UNSIGNED, u64::try_from(value).map_err(outside)?);
    }
    Ok(())
}

fn put_link(out: &mut Vec<u8>, cid: &Cid) {
    let mut bytes = vec![0];
    bytes.extend(cid.to_bytes());
    out.extend(LINK_TAG);
    put_string(out, major::BYTES, &bytes);
}

fn put_string(out: &mut Vec<u8>, major: u8, bytes: &[u8]) {
    put_head(out, major, bytes.len() as u64);
    out.extend(bytes);
}

fn put_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let bytes = argument.to_be_bytes();
    let (info, width) = match argument {
        0..24 => (bytes[7], 0),
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 8),
    };
    out.push(major << 5 | info);
    out.extend(&bytes[8 - width..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BLOCK_LEN_MAX, cid_from_text};

    fn unhex(hex: &str) -> Vec<u8> {
        multibase::Base::Base16Lower.decode(hex).unwrap()
    }

    #[test]
    fn canonical_bytes_decode_and_encode_to_themselves() {
        let check = |hex: &str, expected: Ipld| {
            let value = decode(&unhex(hex)).unwrap();
            assert_eq!(value, expected, "{hex}");
            assert_eq!(encode(&value).unwrap(), unhex(hex), "{hex}");
        };
        check("f6", Ipld::Null);
        check("f4", Ipld::Bool(false));
        check("f5", Ipld::Bool(true));
        check("17", Ipld::Integer(23));
        check("1818", Ipld::Integer(24));
        check("190100", Ipld::Integer(256));
        check("1a00010000", Ipld::Integer(65_536));
        check("1b0000000100000000", Ipld::Integer(1 << 32));
        check("1bffffffffffffffff", Ipld::Integer(u64::MAX.into()));
        check("20", Ipld::Integer(-1));
        check("3818", Ipld::Integer(-25));
        check("3bffffffffffffffff", Ipld::Integer(-1 - i128::from(u64::MAX)));
        check("fb3ff8000000000000", Ipld::Float(1.5));
        check("60", Ipld::String(String::new()));
        check("62c3bc", Ipld::String("ü".to_owned()));
        check("420102", Ipld::Bytes(vec![1, 2]));
        check("820102", Ipld::List(vec![Ipld::Integer(1), Ipld::Integer(2)]));
        check("a0", Ipld::Map(Map::default()));
        let keys = vec![("b".to_owned(), Ipld::Null), ("aa".to_owned(), Ipld::Null)];
        check("a26162f6626161f6", Ipld::Map(Map::new(keys).unwrap()));
        check("d82a450001550000", cid_from_text("bafkqaaa").unwrap().into());
    }

    #[test]
    fn negative_zero_keeps_its_sign() {
        let bytes = unhex("fb8000000000000000");
        assert_eq!(encode(&decode(&bytes).unwrap()).unwrap(), bytes);
    }

    #[test]
    fn an_inlined_block_of_128_bytes_is_a_link() {
        let hash = multihash::Multihash::wrap(0, &[7; 128]).unwrap();
        let value = Ipld::from(Cid::new_v1(0x55, hash));
        assert_eq!(decode(&encode(&value).unwrap()).unwrap(), value);
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let check = |hex: &str, expected: &str| match decode(&unhex(hex)) {
            Err(IpldError::Cbor { reason, .. }) => assert_eq!(reason, expected, "{hex}"),
            other => panic!("{hex}: {other:?}"),
        };
        for hex in ["", "18", "1a0001", "61", "81", "a1", "a16161", "fb00", "d8", "d82a", "8200"] {
            check(hex, "cut short");
        }
        for hex in ["1817", "1900ff", "1a0000ffff", "1b00000000ffffffff", "3817", "580100", "9800"]
        {
            check(hex, "a number not in its shortest form");
        }
        for hex in ["9fff", "5f4100ff", "bfff", "7fff", "a17f654c00000000ff2e"] {
            check(hex, "an indefinite length");
        }
        for hex in ["1c", "5d", "9e"] {
            check(hex, "a reserved length");
        }
        for hex in ["f7", "e0", "f90000", "fa00000000", "ff", "f818", "fc"] {
            check(hex, "a simple value or a float of fewer than 64 bits");
        }
        for hex in ["fb7ff0000000000000", "fbfff0000000000000", "fb7ff8000000000000"] {
            check(hex, "a float that is not finite");
        }
        check("0000", "bytes after the item");
        check("61ff", "text that is not UTF-8");
        check("a10000", "a map key that is no text");
        check("a2616100616100", "a map key that appears twice");
        check("a2626161006162f6", "map keys out of order");
        check("a2616200616100", "map keys out of order");
        check("c10000", "a tag other than 42");
        check("d82b450001550000", "a tag other than 42");
        check("d82a6500015500", "a link that is no byte string");
        check("d82a4401550000", "a link without its leading zero byte");
        check("d82a40", "a link without its leading zero byte");
        check("d82a4100", "a link that is no CID");
        check("d82a46000155000000", "a link that is no CID");
    }

    #[test]
    fn claims_and_depth_cost_nothing() {
        for head in [0x5b, 0x7b, 0x9b, 0xbb] {
            let mut bytes = vec![head];
            bytes.extend(u64::MAX.to_be_bytes());
            assert!(decode(&bytes).is_err(), "{head:x}");
        }
        let nested = |depth: usize| {
            let mut bytes = vec![0x81; depth];
            bytes.push(0);
            bytes
        };
        assert!(decode(&nested(DEPTH_MAX)).is_ok());
        let too_deep = IpldError::Cbor { at: DEPTH_MAX + 1, reason: "nested too deep" };
        assert_eq!(decode(&nested(DEPTH_MAX + 1)), Err(too_deep));
        assert!(decode(&nested(BLOCK_LEN_MAX - 1)).is_err());
        assert_eq!(
            decode(&vec![0; BLOCK_LEN_MAX + 1]),
            Err(IpldError::TooBig { len: BLOCK_LEN_MAX + 1 })
        );
    }

    #[test]
    fn what_has_no_form_is_not_written() {
        for value in [
            Ipld::Float(f64::NAN),
            Ipld::Float(f64::INFINITY),
            Ipld::Integer(1 << 64),
            Ipld::Integer(-2 - i128::from(u64::MAX)),
        ] {
            assert!(matches!(encode(&value), Err(IpldError::Inexpressible(_))), "{value:?}");
        }
    }
}
