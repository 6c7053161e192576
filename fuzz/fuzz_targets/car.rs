//! CAR: reading ends; what was read can be written and read again; and the decoders take whatever
//! the sections hold, verified or not.
#![no_main]

use bytes::Bytes;
use cidfs::block::{Block, HashFn, codecs};
use cidfs::codec::car::{CarReader, section_header, write_header, write_section};
use cidfs::codec::node::Node;
use cidfs::codec::{dag_cbor, dag_json};
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
        blocks.push(decode_all(section.cid.codec(), section.data));
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

/// Runs the decoder that the codec asks for and returns the bytes as a block of their true hash.
fn decode_all(codec: u64, data: Bytes) -> Block {
    let block =
        Block::hash(codec, HashFn::SHA2_256, data).expect("a section is no longer than a block");
    match codec {
        codecs::DAG_CBOR => drop(dag_cbor::decode(block.data())),
        codecs::DAG_JSON => drop(dag_json::decode(block.data())),
        _ => drop(Node::decode(&block)),
    }
    block
}
