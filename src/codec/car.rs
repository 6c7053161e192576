//! CAR archives (spec 04): reads CARv1 and CARv2 as a stream, writes CARv1.
//!
//! A section is a CID and bytes that claim to match it; nothing is verified here, the caller gives
//! them to `Block::verify`. Memory is bounded by one section, whatever the archive says about itself.
//! The index of a CARv2 is only a hint and is never read; neither are bytes after its payload.

use std::io::{self, BufReader, Read, Write};

use bytes::Bytes;

use super::dag_cbor;
use super::ipld::{Ipld, IpldError, Map};
use crate::block::{
    BLOCK_LEN_MAX, Block, Cid, CidError, DIGEST_LEN_MAX, VARINT_LEN_MAX, cid_prefix,
};

/// Longest header in bytes: room for 27,000 roots, and no more than an idle reader may hold.
pub const HEADER_LEN_MAX: usize = 1024 * 1024;

/// Longest CID in bytes: four varints and a digest (spec 01 §3).
pub const CID_LEN_MAX: usize = 4 * VARINT_LEN_MAX + DIGEST_LEN_MAX;

/// Longest section in bytes, without its length field: a CID and a block.
pub const SECTION_LEN_MAX: usize = CID_LEN_MAX + BLOCK_LEN_MAX;

/// Longest section in bytes that is skipped, whose block is too big: a length above it is more
/// likely damaged, and skipping it would swallow whole sections.
const SKIPPED_LEN_MAX: u64 = 16 * 1024 * 1024;

/// Bytes that are asked of the stream at once, and taken for a section before any of it is here.
const READ_BUFFER_LEN: usize = 64 * 1024;

/// The fixed bytes of a CARv2 after its pragma: characteristics, and three numbers of 64 bits.
const V2_HEADER_LEN: usize = 40;

/// Offset in a CARv2 from which its payload may begin: the pragma (11 bytes) and the header.
const V2_PAYLOAD_OFFSET_MIN: u64 = 11 + V2_HEADER_LEN as u64;

/// Why an archive cannot be read. Offsets are in bytes from the start of the stream.
#[derive(Debug, thiserror::Error)]
pub enum CarError {
    /// The stream failed.
    #[error("cannot read the archive at byte {at}: {source}")]
    Read {
        /// Where.
        at: u64,
        /// What the stream said.
        source: io::Error,
    },
    /// The stream or the CARv2 payload ends inside a header or a section.
    #[error("the archive is cut short at byte {at}")]
    Truncated {
        /// Where the bytes ended.
        at: u64,
    },
    /// The header is not that of a CARv1 or CARv2.
    #[error("not a CAR archive: {0}")]
    Header(&'static str),
    /// The header is not dag-cbor.
    #[error("not a CAR archive: the header is {0}")]
    HeaderCbor(#[from] IpldError),
    /// A length field is no canonical varint.
    #[error("the length at byte {at} is malformed")]
    Length {
        /// Where the length field begins.
        at: u64,
    },
    /// A section has the length zero.
    #[error("the section at byte {at} is empty")]
    EmptySection {
        /// Where the section begins.
        at: u64,
    },
    /// A header or section is longer than is read.
    #[error("the length at byte {at} claims {len} bytes, over the limit of {max} bytes")]
    TooBig {
        /// Where it begins.
        at: u64,
        /// Claimed length in bytes.
        len: u64,
        /// The limit in bytes.
        max: usize,
    },
    /// A section holds a block over [`BLOCK_LEN_MAX`]; it was skipped, and reading may go on.
    #[error(
        "the section at byte {at}: {cid} is a block of {len} bytes, over the limit of {BLOCK_LEN_MAX} bytes"
    )]
    BlockTooBig {
        /// Where the section begins.
        at: u64,
        /// The address of the block.
        cid: Box<Cid>,
        /// Its length in bytes.
        len: u64,
    },
    /// A section does not begin with a CID.
    #[error("the section at byte {at} does not begin with a CID ({source})")]
    Cid {
        /// Where the section begins.
        at: u64,
        /// What is wrong with the CID.
        source: CidError,
    },
}

/// One block of an archive, **not verified**.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Offset in bytes of the section's length field from the start of the stream.
    pub offset: u64,
    /// The address that is claimed.
    pub cid: Cid,
    /// The bytes; at most [`BLOCK_LEN_MAX`].
    pub data: Bytes,
}

/// Reads an archive section by section; as an iterator it ends after the first error other than
/// [`CarError::BlockTooBig`].
#[derive(Debug)]
pub struct CarReader<R> {
    input: Input<R>,
    roots: Vec<Cid>,
    version: u8,
    done: bool,
}

impl<R: Read> CarReader<R> {
    /// Reads the header of a CARv1 or CARv2; the stream is buffered here.
    ///
    /// # Errors
    /// [`CarError`], never before the bytes in question were read.
    pub fn new(reader: R) -> Result<Self, CarError> {
        let reader = BufReader::with_capacity(READ_BUFFER_LEN, reader);
        let mut input = Input { reader, at: 0, end: None };
        let outer = input.header()?;
        let (version, roots) = match outer {
            Header::V1 { roots } => (1, roots),
            Header::V2 => {
                input.enter_v2_payload()?;
                match input.header()? {
                    Header::V1 { roots } => (2, roots),
                    Header::V2 => return Err(CarError::Header("a CARv2 inside a CARv2")),
                }
            }
        };
        Ok(Self { input, roots, version, done: false })
    }

    /// Returns the roots of the header; they need not be in the archive.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// Returns the version of the container, 1 or 2.
    pub fn version(&self) -> u8 {
        self.version
    }
}

impl<R: Read> Iterator for CarReader<R> {
    type Item = Result<Section, CarError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let section = self.input.section().transpose();
        self.done = !matches!(section, Some(Ok(_) | Err(CarError::BlockTooBig { .. })));
        section
    }
}

/// Parses the length field of a section at the front of `bytes` and returns its own length and the
/// length of what follows it; `None` when it is cut short, malformed, zero or over
/// [`SECTION_LEN_MAX`].
pub fn section_header(bytes: &[u8]) -> Option<(usize, usize)> {
    let front = &bytes[..bytes.len().min(VARINT_LEN_MAX)];
    let (len, rest) = unsigned_varint::decode::u64(front).ok()?;
    let len = usize::try_from(len).ok().filter(|len| (1..=SECTION_LEN_MAX).contains(len))?;
    Some((front.len() - rest.len(), len))
}

/// Writes the header of a CARv1 and returns its length in bytes.
///
/// # Errors
/// What the writer says.
pub fn write_header(out: &mut impl Write, roots: &[Cid]) -> io::Result<u64> {
    let roots = roots.iter().copied().map(Ipld::from).collect();
    let entries =
        vec![("roots".to_owned(), Ipld::List(roots)), ("version".to_owned(), Ipld::Integer(1))];
    let header = Map::new(entries)
        .and_then(|map| dag_cbor::encode(&Ipld::Map(map)))
        .map_err(io::Error::other)?;
    let prefix_len = write_length(out, header.len())?;
    out.write_all(&header)?;
    Ok(prefix_len + header.len() as u64)
}

/// Writes a block as a section and returns the section's whole length in bytes.
///
/// # Errors
/// What the writer says.
pub fn write_section(out: &mut impl Write, block: &Block) -> io::Result<u64> {
    let head_len = write_section_head(out, block)?;
    out.write_all(block.data())?;
    Ok(head_len + block.data().len() as u64)
}

/// Writes what stands in front of a block in its section and returns its length in bytes.
///
/// # Errors
/// What the writer says.
pub fn write_section_head(out: &mut impl Write, block: &Block) -> io::Result<u64> {
    let cid = block.cid().to_bytes();
    let prefix_len = write_length(out, cid.len() + block.data().len())?;
    out.write_all(&cid)?;
    Ok(prefix_len + cid.len() as u64)
}

fn write_length(out: &mut impl Write, len: usize) -> io::Result<u64> {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let prefix = unsigned_varint::encode::usize(len, &mut buffer);
    out.write_all(prefix)?;
    Ok(prefix.len() as u64)
}

enum Header {
    V1 { roots: Vec<Cid> },
    V2,
}

impl Header {
    fn decode(bytes: &[u8]) -> Result<Self, CarError> {
        let Ipld::Map(map) = dag_cbor::decode(bytes)? else {
            return Err(CarError::Header("the header is no map"));
        };
        match (map.get("version"), map.get("roots"), map.len()) {
            (Some(Ipld::Integer(2)), None, 1) => Ok(Self::V2),
            (Some(Ipld::Integer(1)), Some(Ipld::List(roots)), 2) => {
                let roots = roots.iter().map(root_cid).collect::<Result<_, _>>()?;
                Ok(Self::V1 { roots })
            }
            (Some(Ipld::Integer(1)), ..) => Err(CarError::Header("the list of roots is missing")),
            _ => Err(CarError::Header("the version is neither 1 nor 2")),
        }
    }
}

fn root_cid(root: &Ipld) -> Result<Cid, CarError> {
    match root {
        Ipld::Link(cid) => Ok(**cid),
        _ => Err(CarError::Header("a root is no CID")),
    }
}

/// The stream with its position and, in a CARv2, the end of the payload.
#[derive(Debug)]
struct Input<R> {
    reader: BufReader<R>,
    at: u64,
    end: Option<u64>,
}

impl<R: Read> Input<R> {
    fn header(&mut self) -> Result<Header, CarError> {
        let at = self.at;
        match self.framed(HEADER_LEN_MAX)? {
            Some(bytes) if bytes.is_empty() => Err(CarError::Header("the header is empty")),
            Some(bytes) => Header::decode(&bytes),
            None => Err(CarError::Truncated { at }),
        }
    }

    /// Reads the fixed header of a CARv2 and skips to its payload.
    fn enter_v2_payload(&mut self) -> Result<(), CarError> {
        let header = self.take(V2_HEADER_LEN as u64)?;
        let number = |from: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[from..from + 8]);
            u64::from_le_bytes(bytes)
        };
        let (offset, len) = (number(16), number(24));
        if offset < V2_PAYLOAD_OFFSET_MIN {
            return Err(CarError::Header("the CARv2 payload begins inside the header"));
        }
        let end =
            offset.checked_add(len).ok_or(CarError::Header("the CARv2 payload is endless"))?;
        self.skip(offset - self.at)?;
        self.end = Some(end);
        Ok(())
    }

    fn section(&mut self) -> Result<Option<Section>, CarError> {
        let offset = self.at;
        let Some(len) = self.length()? else { return Ok(None) };
        if len == 0 {
            return Err(CarError::EmptySection { at: offset });
        }
        if len > SKIPPED_LEN_MAX {
            return Err(CarError::TooBig { at: offset, len, max: SECTION_LEN_MAX });
        }
        let bytes = self.take(len.min(SECTION_LEN_MAX as u64))?;
        let (cid, cid_len) =
            cid_prefix(&bytes).map_err(|source| CarError::Cid { at: offset, source })?;
        let data_len = len - cid_len as u64;
        if data_len > BLOCK_LEN_MAX as u64 {
            self.skip(len - bytes.len() as u64)?;
            return Err(CarError::BlockTooBig { at: offset, cid: Box::new(cid), len: data_len });
        }
        Ok(Some(Section { offset, cid, data: Bytes::from(bytes).slice(cid_len..) }))
    }

    /// Reads a length field and the bytes that it announces; `None` at a regular end.
    fn framed(&mut self, max: usize) -> Result<Option<Vec<u8>>, CarError> {
        let at = self.at;
        let Some(len) = self.length()? else { return Ok(None) };
        if len > max as u64 {
            return Err(CarError::TooBig { at, len, max });
        }
        self.take(len).map(Some)
    }

    /// Reads a length field; `None` when the stream ends before it, where it may end.
    fn length(&mut self) -> Result<Option<u64>, CarError> {
        let at = self.at;
        let mut varint = [0; VARINT_LEN_MAX];
        for used in 0..VARINT_LEN_MAX {
            let Some(byte) = self.byte()? else {
                let may_end = used == 0 && self.end.is_none_or(|end| end == at);
                return if may_end { Ok(None) } else { Err(CarError::Truncated { at: self.at }) };
            };
            varint[used] = byte;
            match unsigned_varint::decode::u64(&varint[..=used]) {
                Ok((len, _)) => return Ok(Some(len)),
                Err(unsigned_varint::decode::Error::Insufficient) => {}
                Err(_) => break,
            }
        }
        Err(CarError::Length { at })
    }

    fn byte(&mut self) -> Result<Option<u8>, CarError> {
        if self.end.is_some_and(|end| end <= self.at) {
            return Ok(None);
        }
        let byte = self.reader.by_ref().bytes().next().transpose();
        let byte = byte.map_err(|source| CarError::Read { at: self.at, source })?;
        self.at += u64::from(byte.is_some());
        Ok(byte)
    }

    fn take(&mut self, len: u64) -> Result<Vec<u8>, CarError> {
        let bytes = self.read(len)?;
        if (bytes.len() as u64) < len {
            return Err(CarError::Truncated { at: self.at });
        }
        Ok(bytes)
    }

    /// Reads up to `len` bytes, fewer only at the end; the buffer grows with what arrives, not with
    /// what was claimed.
    fn read(&mut self, len: u64) -> Result<Vec<u8>, CarError> {
        let left = self.end.map_or(len, |end| len.min(end.saturating_sub(self.at)));
        let capacity =
            usize::try_from(left).map_or(READ_BUFFER_LEN, |left| left.min(READ_BUFFER_LEN));
        let mut bytes = Vec::with_capacity(capacity);
        let read = self.reader.by_ref().take(left).read_to_end(&mut bytes);
        self.at += bytes.len() as u64;
        read.map_err(|source| CarError::Read { at: self.at, source })?;
        Ok(bytes)
    }

    fn skip(&mut self, len: u64) -> Result<(), CarError> {
        let left = self.end.map_or(len, |end| len.min(end.saturating_sub(self.at)));
        let skipped = io::copy(&mut self.reader.by_ref().take(left), &mut io::sink())
            .map_err(|source| CarError::Read { at: self.at, source })?;
        self.at += skipped;
        if skipped < len { Err(CarError::Truncated { at: self.at }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{HashFn, cid_from_bytes, codecs};

    const HELLO_CAR: &str = "3aa265726f6f747381d82a58250001551220a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a4476776657273696f6e013001551220a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a44768656c6c6f20776f726c640a";
    const PROBE_CAR: &str = "19a265726f6f747381d82a4500015500006776657273696f6e01";

    fn unhex(hex: &str) -> Vec<u8> {
        multibase::Base::Base16Lower.decode(hex).unwrap()
    }

    fn hello() -> Block {
        let data = Bytes::from_static(b"hello world\n");
        Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Cid>, Vec<Section>), CarError> {
        let reader = CarReader::new(bytes)?;
        let roots = reader.roots().to_vec();
        Ok((roots, reader.collect::<Result<_, _>>()?))
    }

    /// Puts a CARv1 into a CARv2 with a gap before it and an index after it.
    fn wrap_v2(payload: &[u8], offset: u64, len: u64) -> Vec<u8> {
        let mut out = unhex("0aa16776657273696f6e02");
        out.extend([0; 16]);
        out.extend(offset.to_le_bytes());
        out.extend(len.to_le_bytes());
        out.extend([0; 8]);
        out.resize(usize::try_from(offset).unwrap().max(out.len()), 0);
        out.extend(payload);
        out.extend([0x80, 8, 0, 0, 0, 0]);
        out
    }

    #[test]
    fn the_written_archive_is_that_of_the_spec() {
        let mut out = Vec::new();
        let header_len = write_header(&mut out, &[*hello().cid()]).unwrap();
        assert_eq!(header_len, 59);
        let section_len = write_section(&mut out, &hello()).unwrap();
        assert_eq!(section_len, 49);
        assert_eq!(out, unhex(HELLO_CAR));
        assert_eq!(section_header(&out[59..]), Some((1, 48)));
    }

    #[test]
    fn reads_what_it_writes() {
        let (roots, sections) = read(&unhex(HELLO_CAR)).unwrap();
        assert_eq!(roots, [*hello().cid()]);
        assert_eq!(sections.len(), 1);
        assert_eq!(sections[0].offset, 59);
        assert_eq!(Block::verify(sections[0].cid, sections[0].data.clone()).unwrap(), hello());
    }

    #[test]
    fn roots_need_not_be_present() {
        let (roots, sections) = read(&unhex(PROBE_CAR)).unwrap();
        assert_eq!(roots, [cid_from_bytes(&[1, 0x55, 0, 0]).unwrap()]);
        assert!(sections.is_empty());
        let mut rootless = Vec::new();
        write_header(&mut rootless, &[]).unwrap();
        assert_eq!(read(&rootless).unwrap().0, []);
    }

    #[test]
    fn the_payload_of_a_carv2_ends_where_it_says() {
        let payload = unhex(HELLO_CAR);
        let len = payload.len() as u64;
        for offset in [51, 64, 9000] {
            let bytes = wrap_v2(&payload, offset, len);
            let reader = CarReader::new(&bytes[..]).unwrap();
            assert_eq!(reader.version(), 2);
            let sections: Vec<_> = reader.map(Result::unwrap).collect();
            assert_eq!(sections.len(), 1);
            assert_eq!(sections[0].offset, offset + 59);
        }
        for (offset, len) in [(50, len), (51, u64::MAX), (51, len - 1), (51, len + 100), (51, 0)] {
            assert!(read(&wrap_v2(&payload, offset, len)).is_err(), "{offset} {len}");
        }
        let nested = wrap_v2(&payload, 51, len);
        assert!(read(&wrap_v2(&nested, 51, nested.len() as u64)).is_err());
    }

    #[test]
    fn every_cut_is_an_error_or_a_section_boundary() {
        let whole = unhex(HELLO_CAR);
        for len in 0..whole.len() {
            match read(&whole[..len]) {
                Ok((_, sections)) => assert!(len == 59 && sections.is_empty(), "{len}"),
                Err(CarError::Truncated { at }) => assert_eq!(at, len as u64),
                Err(other) => panic!("{len}: {other}"),
            }
        }
    }

    #[test]
    fn malformed_archives_are_refused() {
        let check = |tail: &str, expected: &str| {
            let mut bytes = unhex(PROBE_CAR);
            bytes.extend(unhex(tail));
            assert_eq!(read(&bytes).unwrap_err().to_string(), expected);
        };
        check("00", "the section at byte 26 is empty");
        check("8000", "the length at byte 26 is malformed");
        check("ffffffffffffffffffff01", "the length at byte 26 is malformed");
        check("84808080808080808002", "the length at byte 26 is malformed");
        check(
            "ffffffff0f",
            "the length at byte 26 claims 4294967295 bytes, over the limit of 2097316 bytes",
        );
        check(
            "0102",
            "the section at byte 26 does not begin with a CID (not a CID: version is neither 0 nor 1)",
        );
        check("05015500", "the archive is cut short at byte 30");
        for header in
            ["00", "01f6", "01a0", "0aa16776657273696f6e01", "0aa16776657273696f6e03", "81808001"]
        {
            assert!(read(&unhex(header)).is_err(), "{header}");
        }
    }

    #[test]
    fn a_block_over_the_limit_is_refused_by_name_and_the_next_is_read() {
        for over in [1, 1000, 1 << 20] {
            let mut bytes = unhex(PROBE_CAR);
            write_length(&mut bytes, 4 + BLOCK_LEN_MAX + over).unwrap();
            bytes.extend([1, 0x55, 0, 0]);
            bytes.resize(bytes.len() + BLOCK_LEN_MAX + over, 0);
            bytes.extend(unhex("0401550000"));
            let len = (BLOCK_LEN_MAX + over) as u64;
            let wrapped = wrap_v2(&bytes, 51, bytes.len() as u64);
            for (archive, start) in [(&bytes, 0), (&wrapped, 51)] {
                let mut reader = CarReader::new(&archive[..]).unwrap();
                let at = start + 26;
                let refused = reader.next().unwrap().unwrap_err().to_string();
                let words =
                    format!("byte {at}: bafkqaaa is a block of {len} bytes, over the limit");
                assert!(refused.contains(&words), "{refused}");
                assert!(matches!(reader.next(), Some(Ok(_))));
                assert!(reader.next().is_none());
            }
            let cut = wrap_v2(&bytes, 51, bytes.len() as u64 - 6);
            let mut reader = CarReader::new(&cut[..]).unwrap();
            assert!(matches!(reader.next(), Some(Err(CarError::Truncated { .. }))), "{over}");
            assert!(reader.next().is_none());
        }
    }

    #[test]
    fn a_failing_stream_is_told_apart_from_a_short_one() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let archive = unhex(HELLO_CAR);
        let mut reader = CarReader::new((&archive[..70]).chain(Failing)).unwrap();
        let error = reader.next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "cannot read the archive at byte 70: the disk is gone");
        assert!(reader.next().is_none());
    }

    #[test]
    fn section_headers_stand_alone() {
        for (bytes, expected) in [
            (&[48, 1][..], Some((1, 48))),
            (&[0xbc, 1], Some((2, 188))),
            (&[0], None),
            (&[], None),
            (&[0x80], None),
            (&[0xff, 0xff, 0xff, 0x7f], None),
            (&[0x84, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2], None),
        ] {
            assert_eq!(section_header(bytes), expected, "{bytes:?}");
        }
    }
}
