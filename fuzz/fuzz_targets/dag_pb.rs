//! dag-pb: what decodes is encoded to something that decodes to the same node.
#![no_main]

use bytes::Bytes;
use cidfs::codec::dag_pb::{PbNode, encode, encoded_link_len};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(node) = PbNode::decode(Bytes::copy_from_slice(data)) else { return };
    let links: Vec<_> = node.links().collect();
    let payload = node.data();
    let bytes = encode(&links, payload.as_deref());
    let links_len: usize = links.iter().map(encoded_link_len).sum();
    assert!(links_len <= bytes.len());
    let again = PbNode::decode(Bytes::from(bytes)).expect("what was encoded");
    assert!(again.links().eq(links));
    assert_eq!(again.data(), payload);
});
