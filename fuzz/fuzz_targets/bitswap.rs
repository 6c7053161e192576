//! bitswap messages: what decodes is written to something that says the same.
#![no_main]

use bytes::Bytes;
use cidfs::codec::bitswap::{Message, MessageWriter, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(message) = Message::decode(Bytes::copy_from_slice(data)) else { return };
    let mut writer = MessageWriter::new(Version::V1_2);
    for want in message.wants() {
        writer.want(&want);
    }
    for presence in message.presences() {
        writer.presence(&presence);
    }
    let blocks: Vec<_> = message.blocks().filter_map(|claim| claim.prove().ok()).collect();
    for block in &blocks {
        writer.block(block.cid(), block.data());
    }
    let framed = Bytes::from(writer.finish(message.is_full()).concat());
    let length_end = framed.iter().position(|byte| *byte < 0x80).expect("a length") + 1;
    let again = Message::decode(framed.slice(length_end..)).expect("what was written");
    assert!(again.wants().eq(message.wants()));
    assert!(again.presences().eq(message.presences()));
    assert!(again.blocks().map(|claim| claim.prove().expect("was proved")).eq(blocks));
    assert_eq!(again.is_full(), message.is_full());
});
