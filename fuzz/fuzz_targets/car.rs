//! CAR: reading ends, sections are what lies at their offset, and what was read can be written and
//! read again.
//!
//! What the sections hold is left to the targets of their decoders, and nothing is hashed.
#![no_main]

use cidfs::block::{Block, HashFn};
use cidfs::codec::car::{CarReader, section_header, write_header, write_section};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut reader) = CarReader::new(data) else { return };
    let mut copy = Vec::new();
    write_header(&mut copy, reader.roots()).expect("memory");
    let mut blocks = Vec::new();
    for section in reader.by_ref().map_while(Result::ok) {
        let at = usize::try_from(section.offset).expect("an offset in the input");
        let (prefix_len, len) = section_header(&data[at..]).expect("a section that was read");
        let cid_len = section.cid.encoded_len();
        assert_eq!(data[at + prefix_len + cid_len..at + prefix_len + len], section.data);
        // The longer ones do not fit into an identity CID.
        blocks.extend(Block::hash(section.cid.codec(), HashFn::IDENTITY, section.data));
    }
    assert!(reader.next().is_none(), "reading goes on after its end");
    for block in &blocks {
        write_section(&mut copy, block).expect("memory");
    }
    let again = CarReader::new(&copy[..]).expect("what was written");
    assert_eq!(again.roots(), reader.roots());
    let sections = again.map(|section| section.expect("what was written"));
    assert!(
        sections
            .map(|section| Block::verify(section.cid, section.data))
            .eq(blocks.into_iter().map(Ok))
    );
});
