//! What peers are answered, without a network.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::time::timeout;

use super::again::REST_MAX;
use super::*;
use crate::block::{Block, HashFn, codecs};
use crate::codec::bitswap::{MessageWriter, Version};
use crate::exchange::bitswap::Shared;
use crate::exchange::bitswap::stream::PIECE_LEN;
use crate::store::{BlockStore as _, MemoryStore};

fn block(number: usize, len: usize) -> Block {
    let mut data = vec![0; len.max(8)];
    data[..8].copy_from_slice(&number.to_le_bytes());
    Block::hash(codecs::RAW, HashFn::SHA2_256, data.into()).unwrap()
}

fn want(block: &Block, kind: WantKind) -> Want {
    Want { cid: *block.cid(), priority: 1, is_cancel: false, kind, send_dont_have: true }
}

/// Returns what is sent of a block.
fn given(block: &Block) -> (Cid, Bytes) {
    (*block.cid(), block.data().clone())
}

fn message(wants: impl IntoIterator<Item = Want>, is_full: bool) -> Message {
    let mut writer = MessageWriter::new(Version::V1_2);
    wants.into_iter().for_each(|want| writer.want(&want));
    let framed = writer.finish(is_full).concat();
    let at = framed.iter().position(|byte| *byte < 0x80).unwrap() + 1;
    Message::decode(Bytes::copy_from_slice(&framed[at..])).unwrap()
}

fn framed_len(outgoing: &Outgoing) -> usize {
    let mut writer = MessageWriter::new(Version::V1_2);
    outgoing.blocks.iter().for_each(|(cid, data)| writer.block(cid, data));
    outgoing.presences.iter().for_each(|presence| writer.presence(presence));
    writer.finish(false).iter().map(Bytes::len).sum()
}

struct Bench {
    server: Server,
    store: Arc<MemoryStore>,
    peer: PeerId,
}

impl Bench {
    fn new(blocks: &[Block]) -> Self {
        let store = Arc::new(MemoryStore::default());
        store.put(blocks).unwrap();
        let (mut server, peer) = (Server::new(Shelf::new(store.clone(), None)), PeerId::random());
        server.join(peer, true);
        Self { server, store, peer }
    }

    fn told(&mut self, wants: impl IntoIterator<Item = Want>) {
        self.server.told(&self.peer, &message(wants, false));
    }

    /// Returns the next reply, if one comes before the next look at what was not here.
    async fn reply(&mut self) -> Option<(PeerId, Outgoing)> {
        self.reply_on_lane().await.map(|(peer, _, outgoing)| (peer, outgoing))
    }

    async fn reply_on_lane(&mut self) -> Option<(PeerId, Lane, Outgoing)> {
        let reply = poll_fn(|cx| self.server.poll(cx));
        timeout(REST_MAX / 2, reply).await.ok()
    }

    /// Has others take all room for replies; returns one of them.
    async fn fill(&mut self, blocks: &[Block]) -> PeerId {
        let mut last = self.peer;
        while self.server.replies() < REPLIES_MAX {
            let count = if self.server.replies() < CROWD { SENDING_MAX } else { 1 };
            last = self.join(&blocks[..count]).await;
        }
        last
    }

    /// Has one more peer take what it can of what it wants.
    async fn join(&mut self, blocks: &[Block]) -> PeerId {
        let peer = PeerId::random();
        self.server.join(peer, true);
        let wants = blocks.iter().map(|block| want(block, WantKind::Block));
        self.server.told(&peer, &message(wants, false));
        while self.reply().await.is_some() {}
        peer
    }

    async fn outgoing(&mut self) -> Outgoing {
        let (peer, outgoing) = self.reply().await.expect("a reply");
        self.server.sent(&peer, Lane::Blocks);
        outgoing
    }
}

#[tokio::test(start_paused = true)]
async fn each_question_has_its_answer() {
    let (small, big, gone) = (block(1, 100), block(2, 2000), block(3, 10));
    let mut bench = Bench::new(&[small.clone(), big.clone()]);
    let quiet = Want { send_dont_have: false, ..want(&block(4, 10), WantKind::Block) };
    bench.told([
        want(&small, WantKind::Have),
        want(&big, WantKind::Have),
        want(&gone, WantKind::Have),
        quiet,
    ]);
    let outgoing = bench.outgoing().await;
    assert_eq!(outgoing.blocks, [given(&small)], "a small block is sent at once");
    let (here, not) =
        (Presence { cid: *big.cid(), has: true }, Presence { cid: *gone.cid(), has: false });
    assert_eq!(outgoing.presences, [here, not]);
    bench.told([want(&big, WantKind::Block)]);
    assert_eq!(bench.outgoing().await.blocks, [given(&big)]);
    assert!(bench.reply().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_not_here_comes_when_it_is_and_is_denied_once() {
    let late = block(1, 100);
    let mut bench = Bench::new(&[]);
    bench.told([want(&late, WantKind::Block)]);
    assert!(!bench.outgoing().await.presences[0].has);
    bench.store.put(&[block(2, 100)]).unwrap();
    assert!(bench.reply().await.is_none(), "it was told once");
    bench.store.put(std::slice::from_ref(&late)).unwrap();
    assert_eq!(bench.outgoing().await.blocks, [given(&late)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_called_off_is_not_sent() {
    let (a, b) = (block(1, 2000), block(2, 2000));
    let mut bench = Bench::new(&[a.clone(), b.clone()]);
    bench.told([want(&a, WantKind::Block), want(&b, WantKind::Block)]);
    bench.server.read_more();
    bench.told([Want { is_cancel: true, ..want(&a, WantKind::Block) }]);
    assert_eq!(bench.outgoing().await.blocks, [given(&b)]);
    bench.told([want(&a, WantKind::Block)]);
    bench.server.told(&bench.peer, &message([want(&b, WantKind::Block)], true));
    assert_eq!(
        bench.outgoing().await.blocks,
        [given(&b)],
        "a full list takes the place of the rest"
    );
    assert!(bench.reply().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn replies_are_bounded_and_go_on() {
    let blocks: Vec<_> = (0..10).map(|number| block(number, 200_000)).collect();
    let mut bench = Bench::new(&blocks);
    bench.told(blocks.iter().map(|block| want(block, WantKind::Block)));
    let mut sent = Vec::new();
    while sent.len() < blocks.len() {
        let outgoing = bench.outgoing().await;
        let bytes: usize = outgoing.blocks.iter().map(|(_, data)| data.len()).sum();
        assert!(bytes < REPLY_BYTES + 200_000, "{bytes}");
        sent.extend(outgoing.blocks);
    }
    assert_eq!(sent, blocks.iter().map(given).collect::<Vec<_>>(), "in order");
}

#[tokio::test(start_paused = true)]
async fn no_more_is_read_than_can_be_sent() {
    let blocks: Vec<_> = (0..20).map(|number| block(number, 600_000)).collect();
    let mut bench = Bench::new(&blocks);
    bench.told(blocks.iter().map(|block| want(block, WantKind::Block)));
    for _ in 0..SENDING_MAX {
        assert!(bench.reply().await.is_some());
    }
    assert!(bench.reply().await.is_none(), "none was sent yet");
    bench.server.sent(&bench.peer, Lane::Blocks);
    assert!(bench.reply().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn many_wants_are_remembered_within_bounds() {
    let mut bench = Bench::new(&[]);
    for round in 0..20 {
        let blocks = (0..200).map(|number| block(round * 200 + number, 8));
        bench.told(blocks.map(|block| want(&block, WantKind::Block)));
        if bench.reply().await.is_some() {
            bench.server.sent(&bench.peer, Lane::Blocks);
        }
        let known = &bench.server.peers[&bench.peer];
        assert!(known.len() <= WANTS_MAX && known.places.len() == known.queue.len());
        assert!(known.reading.len() <= SENDING_MAX * REPLY_WANTS_MAX);
    }
    assert!(bench.server.ledger(&bench.peer).unwrap().0 > WANTS_MAX / 2);
    bench.server.leave(&bench.peer);
    assert_eq!((bench.server.ledger(&bench.peer), bench.server.replies()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn who_was_served_least_comes_first() {
    let blocks: Vec<_> = (0..8).map(|number| block(number, 600_000)).collect();
    let mut bench = Bench::new(&blocks);
    bench.told(blocks.iter().map(|block| want(block, WantKind::Block)));
    for _ in 0..3 {
        bench.outgoing().await;
    }
    let other = PeerId::random();
    bench.server.join(other, true);
    bench.server.told(&other, &message([want(&blocks[0], WantKind::Block)], false));
    let mut order = Vec::new();
    for _ in 0..3 {
        let (peer, _) = bench.reply().await.unwrap();
        bench.server.sent(&peer, Lane::Blocks);
        order.push(peer == other);
    }
    assert!(order.contains(&true), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_something_is_pressed_when_somebody_waits_for_its_room() {
    let blocks: Vec<_> = (0..SENDING_MAX).map(|number| block(number, 600_000)).collect();
    let mut bench = Bench::new(&blocks);
    let busy = bench.fill(&blocks).await;
    assert_eq!(bench.server.pressed(), Pressed::default(), "each has what it wants");
    bench.told([want(&blocks[0], WantKind::Block)]);
    assert!(bench.reply().await.is_none());
    assert_eq!(bench.server.pressed(), Pressed { slow: true, brisk: true });
    bench.server.failed(&busy, Lane::Blocks);
    assert_eq!(bench.reply().await.unwrap().0, bench.peer);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_take_what_is_sent_comes_last() {
    let blocks: Vec<_> = (0..SENDING_MAX).map(|number| block(number, 600_000)).collect();
    let (mut bench, deaf) = (Bench::new(&blocks), PeerId::random());
    bench.told([want(&blocks[0], WantKind::Block)]);
    bench.outgoing().await;
    bench.server.join(deaf, true);
    bench.server.failed(&deaf, Lane::Blocks);
    let busy = bench.fill(&blocks).await;
    let more = message([want(&blocks[1], WantKind::Block)], false);
    for peer in [deaf, bench.peer] {
        bench.server.told(&peer, &more);
    }
    for (done, peer) in [(busy, bench.peer), (bench.peer, deaf)] {
        assert!(bench.reply().await.is_none());
        bench.server.sent(&done, Lane::Blocks);
        assert_eq!(bench.reply().await.unwrap().0, peer, "though the first was served more");
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_replies_slowly_leaves_room_for_others() {
    let blocks: Vec<_> = (0..3).map(|number| block(number, 600_000)).collect();
    let mut bench = Bench::new(&blocks);
    let mut slow = Vec::new();
    for _ in 0..REPLIES_MAX {
        slow.push(bench.join(&blocks[..1]).await);
    }
    assert_eq!(bench.server.pressed(), Pressed::default(), "each has what it wants");
    tokio::time::advance(2 * BRISK_TIME).await;
    for peer in &slow {
        bench.server.sent(peer, Lane::Blocks);
        let more = message(blocks[1..].iter().map(|block| want(block, WantKind::Block)), false);
        bench.server.told(peer, &more);
    }
    let mut replies = 0;
    while let Some((_, outgoing)) = bench.reply().await {
        assert!(!outgoing.is_brisk);
        replies += 1;
    }
    assert_eq!(replies, SLOW_REPLIES_MAX);
    assert_eq!(bench.server.pressed(), Pressed { slow: true, brisk: false });
    bench.told(blocks.iter().map(|block| want(block, WantKind::Block)));
    for _ in &blocks {
        let (peer, outgoing) = bench.reply().await.unwrap();
        assert!(peer == bench.peer && outgoing.is_brisk);
        bench.server.sent(&peer, Lane::Blocks);
    }
    bench.server.sent(&slow[0], Lane::Blocks);
    assert_ne!(bench.reply().await.unwrap().0, slow[0], "others waited for longer");
}

#[tokio::test(start_paused = true)]
async fn who_did_not_take_a_reply_is_behind_for_some_turns_and_who_was_cut_is_not() {
    let blocks: Vec<_> = (0..SENDING_MAX).map(|number| block(number, 600_000)).collect();
    let mut bench = Bench::new(&blocks);
    let other = PeerId::random();
    bench.server.join(other, true);
    bench.server.cut(&other, Lane::Blocks);
    let busy = bench.fill(&blocks).await;
    let more = message([want(&blocks[0], WantKind::Block)], false);
    let mut turns = Vec::<u64>::new();
    for has_failed in [false, true] {
        if has_failed {
            bench.server.failed(&other, Lane::Blocks);
        }
        bench.server.told(&other, &more);
        turns.push(0);
        loop {
            bench.server.told(&bench.peer, &more);
            let done = if turns == [0] { busy } else { bench.peer };
            bench.server.sent(&done, Lane::Blocks);
            let (peer, _) = bench.reply().await.unwrap();
            if peer == other {
                bench.server.sent(&other, Lane::Blocks);
                break;
            }
            *turns.last_mut().unwrap() += 1;
        }
    }
    assert!(turns[0] <= 2 && turns[1].abs_diff(FAILURE_TURNS) < 8, "{turns:?}");
}

#[tokio::test(start_paused = true)]
async fn who_takes_short_replies_at_once_may_be_slow_with_long_ones() {
    let (long, short) = (block(0, 600_000), block(1, 3000));
    let mut bench = Bench::new(&[long.clone(), short.clone()]);
    for (wanted, time, is_brisk) in [
        (&short, BRISK_TIME * 2, true),
        (&long, BRISK_TIME * 2, true),
        (&short, Duration::ZERO, false),
        (&long, Duration::ZERO, false),
        (&long, Duration::ZERO, true),
    ] {
        bench.told([want(wanted, WantKind::Block)]);
        let (peer, outgoing) = bench.reply().await.unwrap();
        assert_eq!(outgoing.is_brisk, is_brisk);
        tokio::time::advance(time).await;
        bench.server.sent(&peer, Lane::Blocks);
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_not_have_it_is_told_that_it_is_not_here() {
    let (small, big) = (block(1, 100), block(2, 2000));
    let mut bench = Bench::new(&[small.clone(), big.clone()]);
    bench.server.join(bench.peer, false);
    bench.told([want(&small, WantKind::Have), want(&big, WantKind::Block)]);
    let outgoing = bench.outgoing().await;
    assert!(outgoing.blocks.is_empty() && outgoing.presences.iter().all(|presence| !presence.has));
    assert_eq!(outgoing.presences.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_for_a_peer_that_left_is_not_sent_to_it() {
    let big = block(1, 2000);
    let mut bench = Bench::new(std::slice::from_ref(&big));
    bench.told([want(&big, WantKind::Block)]);
    bench.server.read_more();
    bench.server.leave(&bench.peer);
    bench.server.join(bench.peer, true);
    assert!(bench.reply().await.is_none());
    assert_eq!(bench.server.replies(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_shared_is_not_here() {
    let (public, secret) = (block(1, 100), block(2, 100));
    let store = Arc::new(MemoryStore::default());
    store.put(&[public.clone(), secret.clone()]).unwrap();
    let is_public = Arc::new(RwLock::new(HashSet::from([*public.cid()])));
    let asked = Arc::clone(&is_public);
    let shared = Shared::new(move |cid| asked.read().contains(cid));
    let shelf = Shelf::new(store.clone(), Some(shared));
    let (mut server, peer) = (Server::new(shelf), PeerId::random());
    server.join(peer, true);
    let mut bench = Bench { server, store, peer };
    bench.told([want(&public, WantKind::Block), want(&secret, WantKind::Block)]);
    let outgoing = bench.outgoing().await;
    assert_eq!(outgoing.blocks, [given(&public)]);
    assert_eq!(outgoing.presences, [Presence { cid: *secret.cid(), has: false }]);
    is_public.write().insert(*secret.cid());
    assert!(bench.reply().await.is_none(), "the store has nothing new");
    tokio::time::advance(REST_MAX / 2).await;
    assert_eq!(bench.outgoing().await.blocks, [given(&secret)], "from now on they may");
}

#[tokio::test(start_paused = true)]
async fn what_is_short_goes_past_long_blocks() {
    let long: Vec<_> = (0..9).map(|number| block(number, 1_000_000)).collect();
    let (short, gone) = (block(10, 3000), block(11, 10));
    let mut bench = Bench::new(&[&long[..], std::slice::from_ref(&short)].concat());
    bench.told(long.iter().map(|block| want(block, WantKind::Block)));
    for _ in 0..SENDING_MAX {
        let (_, lane, outgoing) = bench.reply_on_lane().await.unwrap();
        assert_eq!((lane, outgoing.blocks.len()), (Lane::Blocks, 1));
    }
    assert!(bench.reply().await.is_none(), "long ones wait");
    bench.told([want(&short, WantKind::Block), want(&gone, WantKind::Block)]);
    let (peer, lane, outgoing) = bench.reply_on_lane().await.unwrap();
    assert_eq!((lane, outgoing.blocks), (Lane::Brief, vec![given(&short)]));
    assert_eq!(outgoing.presences, [Presence { cid: *gone.cid(), has: false }]);
    bench.told([want(&short, WantKind::Block)]);
    assert!(bench.reply().await.is_none(), "one at a time");
    bench.server.sent(&peer, Lane::Brief);
    assert_eq!(bench.reply_on_lane().await.unwrap().1, Lane::Brief);
    bench.server.sent(&peer, Lane::Brief);
    for left in (0..long.len() - SENDING_MAX).rev() {
        bench.server.sent(&peer, Lane::Blocks);
        let (_, lane, outgoing) = bench.reply_on_lane().await.unwrap();
        assert_eq!((lane, outgoing.blocks.len()), (Lane::Blocks, 1), "{left}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_short_does_not_go_behind_a_long_block_that_takes_its_time() {
    let (long, short) = (block(0, 1_000_000), block(1, 3000));
    let mut bench = Bench::new(&[long.clone(), short.clone()]);
    for (wait, lane) in [(Duration::ZERO, Lane::Blocks), (BRIEF_AFTER, Lane::Brief)] {
        bench.told([want(&long, WantKind::Block)]);
        let (peer, long_lane, _) = bench.reply_on_lane().await.unwrap();
        tokio::time::advance(wait).await;
        bench.told([want(&short, WantKind::Block)]);
        let (_, short_lane, _) = bench.reply_on_lane().await.unwrap();
        assert_eq!((long_lane, short_lane), (Lane::Blocks, lane));
        bench.server.sent(&peer, long_lane);
        bench.server.sent(&peer, short_lane);
    }
}

#[tokio::test(start_paused = true)]
async fn many_short_ones_go_past_long_blocks_in_several_replies() {
    let long: Vec<_> = (0..SENDING_MAX).map(|number| block(number, 1_000_000)).collect();
    let short: Vec<_> = (10..20).map(|number| block(number, 15_000)).collect();
    let mut bench = Bench::new(&[&long[..], &short].concat());
    bench.told(long.iter().map(|block| want(block, WantKind::Block)));
    while bench.reply().await.is_some() {}
    bench.told(short.iter().map(|block| want(block, WantKind::Block)));
    let mut sent = Vec::new();
    while let Some((peer, lane, outgoing)) = bench.reply_on_lane().await {
        assert_eq!(lane, Lane::Brief);
        let len = framed_len(&outgoing);
        assert!(len < PIECE_LEN, "{len}: it would wait for its turn");
        bench.server.sent(&peer, lane);
        sent.extend(outgoing.blocks);
    }
    assert_eq!(sent, short.iter().map(given).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_had_no_room_keeps_its_place() {
    let blocks: Vec<_> = (0..8).map(|number| block(number, REPLY_BYTES)).collect();
    let mut bench = Bench::new(&blocks);
    for block in &blocks[1..SENDING_MAX] {
        bench.told([want(block, WantKind::Block)]);
        bench.reply().await.expect("a reply that stays under way");
    }
    let (first, later) = blocks.split_at(3);
    bench.told(first.iter().map(|block| want(block, WantKind::Block)));
    bench.server.read_more();
    bench.told(later.iter().map(|block| want(block, WantKind::Block)));
    for block in &blocks {
        assert_eq!(bench.outgoing().await.blocks, [given(block)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_does_not_answer_the_want_that_came_after_it() {
    let (big, other) = (block(1, 3000), block(2, 3000));
    let mut bench = Bench::new(&[big.clone(), other.clone()]);
    for _ in 0..3 {
        bench.told([want(&big, WantKind::Have), want(&other, WantKind::Block)]);
        bench.server.read_more();
        bench.told([want(&big, WantKind::Block)]);
        bench.server.read_more();
        let mut blocks = Vec::new();
        while let Some((peer, lane, outgoing)) = bench.reply_on_lane().await {
            bench.server.sent(&peer, lane);
            blocks.extend(outgoing.blocks);
        }
        blocks.sort_by_key(|(cid, _)| *cid == *other.cid());
        assert_eq!(blocks, [given(&big), given(&other)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_answer_behind_a_long_one_does_not_make_it_short() {
    let (long, short) = (block(0, 1_000_000), [block(1, 3000), block(2, 3000)]);
    let mut bench = Bench::new(&[std::slice::from_ref(&long), &short[..]].concat());
    let mut lanes = Vec::new();
    for wanted in [&long, &short[0], &short[1]] {
        bench.told([want(wanted, WantKind::Block)]);
        lanes.extend(bench.reply_on_lane().await.map(|(_, lane, _)| lane));
    }
    assert_eq!(lanes, [Lane::Blocks, Lane::Blocks, Lane::Brief]);
}

#[tokio::test(start_paused = true)]
async fn what_is_short_goes_past_many_that_are() {
    let many: Vec<_> = (0..80).map(|number| block(number, 15_000)).collect();
    let short = block(99, 3000);
    let mut bench = Bench::new(&[&many[..], std::slice::from_ref(&short)].concat());
    bench.told(many.iter().map(|block| want(block, WantKind::Block)));
    for _ in 0..SENDING_MAX {
        assert_eq!(bench.reply_on_lane().await.unwrap().1, Lane::Blocks);
    }
    bench.told([Want { priority: 2, ..want(&short, WantKind::Block) }]);
    let (_, lane, outgoing) = bench.reply_on_lane().await.unwrap();
    assert_eq!((lane, &outgoing.blocks[0]), (Lane::Brief, &given(&short)));
}
