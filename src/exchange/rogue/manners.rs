//! The ways in which a [rogue](super::Rogue) may behave.

use bytes::Bytes;

use super::{Act, Manner};
use crate::block::{Block, Cid, HashFn, codecs};
use crate::codec::bitswap::{Message, MessageWriter, Presence, Version, Want, WantKind};

/// All of them, with their names.
pub const ALL: [(&str, Manner); 15] = [
    ("wrong blocks", wrong_blocks),
    ("blocks that no hash proves", unprovable_blocks),
    ("promises", promises),
    ("promises again and again", promises_again),
    ("promises taken back", promises_taken_back),
    ("refusals", refusals),
    ("silence", silence),
    ("one byte a second", trickle),
    ("nonsense", nonsense),
    ("giants that do not come", giants),
    ("streams", streams),
    ("a million wants", a_million_wants),
    ("resets", resets),
    ("refusals and resets", refusals_and_resets),
    ("leaving", leaving),
];

/// How many blocks it wants, if not a million.
pub const SOME_WANTS: usize = 10;
/// Length in bytes of what it sends instead of a block.
const BLOCK_LEN: usize = 5000;

fn message(write: impl FnOnce(&mut MessageWriter)) -> Bytes {
    let mut writer = MessageWriter::new(Version::V1_2);
    write(&mut writer);
    writer.finish(false).concat().into()
}

fn presences(presences: impl Iterator<Item = Presence>) -> Bytes {
    message(|writer| presences.for_each(|presence| writer.presence(&presence)))
}

fn wants(asked: &Message) -> impl Iterator<Item = Want> {
    asked.wants().filter(|want| !want.is_cancel)
}

/// A block that nobody else has.
fn block(number: usize, len: usize) -> Block {
    let mut data = vec![0xee; len];
    data[..8].copy_from_slice(&number.to_le_bytes());
    Block::hash(codecs::RAW, HashFn::SHA2_256, data.into()).expect("it is short enough")
}

/// Sends another block for each that it is asked for or about.
pub fn wrong_blocks(asked: &Message) -> Vec<Act> {
    let wrong = (0..wants(asked).count()).map(|number| block(number, BLOCK_LEN));
    vec![Act::Send(message(|writer| {
        wrong.for_each(|block| writer.block(block.cid(), block.data()));
    }))]
}

/// Sends a block with an MD5.
pub fn unprovable_blocks(_: &Message) -> Vec<Act> {
    let bytes = [0x0f, 0x1a, 0x0d, 0x0a, 5, 1, 0x55, 0xd5, 1, 16, 0x12, 4, 0, 0, 0, 0];
    vec![Act::Send(Bytes::copy_from_slice(&bytes))]
}

/// Says that it has what it is asked for or about, and gives nothing.
pub fn promises(asked: &Message) -> Vec<Act> {
    vec![Act::Send(presences(wants(asked).map(|want| Presence { cid: want.cid, has: true })))]
}

/// Says so again and again.
pub fn promises_again(asked: &Message) -> Vec<Act> {
    vec![Act::Again(presences(wants(asked).map(|want| Presence { cid: want.cid, has: true })))]
}

/// Says that it has what it is asked about, and lacks what it is asked for.
pub fn promises_taken_back(asked: &Message) -> Vec<Act> {
    let has = |want: &Want| want.kind == WantKind::Have;
    let presence = |want: Want| Presence { cid: want.cid, has: has(&want) };
    vec![Act::Send(presences(wants(asked).map(presence)))]
}

/// Says at once that it has nothing.
pub fn refusals(asked: &Message) -> Vec<Act> {
    vec![Act::Send(presences(wants(asked).map(|want| Presence { cid: want.cid, has: false })))]
}

/// Says nothing.
pub fn silence(_: &Message) -> Vec<Act> {
    Vec::new()
}

/// Says what is right, too slowly.
pub fn trickle(asked: &Message) -> Vec<Act> {
    vec![Act::Trickle(presences(wants(asked).map(|want| Presence { cid: want.cid, has: true })))]
}

/// Sends what is no message.
pub fn nonsense(_: &Message) -> Vec<Act> {
    vec![Act::Send(Bytes::from_static(&[5, 0xff, 0xff, 0xff, 0xff, 0xff]))]
}

/// Says, 64 times, that a message of 4 MiB follows, and stops.
pub fn giants(_: &Message) -> Vec<Act> {
    vec![Act::Hold(Bytes::from_static(&[0x80, 0x80, 0x80, 2, 0])); 64]
}

/// Opens 500 streams and sends half a length on each.
pub fn streams(_: &Message) -> Vec<Act> {
    vec![Act::Hold(Bytes::from_static(&[0x81])); 500]
}

fn wanting(wanted: impl IntoIterator<Item = Cid>) -> Bytes {
    let kind = WantKind::Block;
    let want = |cid| Want { cid, priority: 1, is_cancel: false, kind, send_dont_have: true };
    message(|writer| wanted.into_iter().for_each(|cid| writer.want(&want(cid))))
}

fn some(count: usize) -> impl Iterator<Item = Cid> {
    (0..count).map(|number| *block(number, 8).cid())
}

/// Wants a million blocks when it is asked for something. That it gets answers is no reason for a million more: its
/// task would never rest, and what never rests cannot be ended.
pub fn a_million_wants(asked: &Message) -> Vec<Act> {
    let is_asked = wants(asked).next().is_some();
    if is_asked { vec![Act::Send(wanting(some(40_000))); 25] } else { Vec::new() }
}

/// Wants some blocks.
pub fn some_wants(_: &Message) -> Vec<Act> {
    vec![Act::Send(wanting(some(SOME_WANTS)))]
}

/// Wants blocks, and reads nothing of what comes.
pub fn deaf(wanted: impl IntoIterator<Item = Cid>) -> Vec<Act> {
    vec![Act::Deafen, Act::Hold(wanting(wanted))]
}

/// Resets the streams on which it is asked.
pub fn resets(_: &Message) -> Vec<Act> {
    vec![Act::Reset]
}

/// Says that it has nothing, and resets the stream on which it was asked.
pub fn refusals_and_resets(asked: &Message) -> Vec<Act> {
    [refusals(asked), resets(asked)].concat()
}

/// Ends the connection.
pub fn leaving(_: &Message) -> Vec<Act> {
    vec![Act::Leave]
}
