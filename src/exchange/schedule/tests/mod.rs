//! The scheduler against sources that are simulated, in a time of its own.

#![expect(clippy::cast_precision_loss, reason = "lengths and counts are far below 2⁵²")]

mod world;

use std::collections::BTreeSet;

use self::world::*;
use super::hedge::{HEDGE_BYTES, HEDGE_SHARE};
use super::*;

#[test]
fn a_long_fat_way_is_filled() {
    for latency in [20, 100] {
        let mut world = World::new(512, MIB).peer(MS * latency, 1000.0, Manner::Honest);
        let share = world.share(128, 1000.0);
        assert!(share > 0.9, "{share:.2} of 1 Gbit/s at {latency} ms");
    }
}

#[test]
fn small_blocks_fill_it_too() {
    let mut world = World::new(8192, 12 * 1024).peer(MS * 20, 1000.0, Manner::Honest);
    let share = world.share(1024, 1000.0);
    assert!(share > 0.7, "{share:.2}");
}

#[test]
fn one_block_after_another_costs_a_round_trip_each() {
    let mut world = World::new(5, 1000).peer(MS * 20, 1000.0, Manner::Honest).peer(
        MS * 80,
        1000.0,
        Manner::Honest,
    );
    let took = world.read_all(1, MS * 1000);
    assert!(took < MS * 5 * 20 + MS * 10, "{took:?}");
}

#[test]
fn four_sources_give_the_sum_of_theirs() {
    let mut world = World::new(512, MIB);
    for _ in 0..4 {
        world = world.peer(MS * 20, 250.0, Manner::Honest);
    }
    let share = world.share(128, 1000.0);
    let totals = world.scheduler.totals();
    assert!(share > 0.8, "{share:.2}");
    assert!(totals.late_bytes * 20 <= totals.bytes, "{totals:?}");
}

#[test]
fn what_each_gave_is_known_after_it_is_gone() {
    let mut world = World::new(64, MIB);
    for _ in 0..2 {
        world = world.peer(MS * 20, 250.0, Manner::Honest);
    }
    world.read_all(16, MS * 10_000);
    world.scheduler.leave(0, world.now);
    let given = world.scheduler.given(&None);
    assert_eq!(
        given,
        world.scheduler.givers().collect::<BTreeMap<_, _>>().into_iter().collect::<Vec<_>>()
    );
    let [(0, one), (1, other)] = given[..] else { panic!("{given:?}") };
    assert_eq!(one.blocks + other.blocks, 64);
    assert_eq!(one.bytes + other.bytes, world.scheduler.totals().bytes);
    assert!(world.scheduler.given(&Some(*cid(0).hash())).is_empty(), "another session");
}

#[test]
fn who_answers_after_a_block_came_takes_part_too() {
    let mut world = World::new(256, MIB).peer(MS, 500.0, Manner::Honest);
    world = world.peer(MS * 60, 500.0, Manner::Honest);
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    while world.step(world.start + MS * 200) {}
    let share = world.share(64, 1000.0);
    assert!(share > 0.8, "{share:.2}");
}

#[test]
fn who_says_a_little_later_that_it_has_it_gives_its_share() {
    let mut world =
        World::new(11, 500).peer(MS * 40, 5.0, Manner::Honest).peer(MS * 50, 5.0, Manner::Honest);
    let session = Some(*cid(0).hash());
    world.scheduler.want(cid(0), Urgency::Demand, session, world.now);
    while world.came.is_empty() {
        assert!(world.step(world.start + MS * 100));
    }
    shares_the_rest(world);
}

#[test]
fn who_was_not_asked_about_the_root_gives_its_share() {
    let mut world = World::new(11, 500).peer(MS * 40, 5.0, Manner::Honest);
    world.scheduler.want(cid(0), Urgency::Demand, Some(*cid(0).hash()), world.now);
    while world.came.is_empty() {
        assert!(world.step(world.start + MS * 100));
    }
    shares_the_rest(world.peer(MS * 50, 5.0, Manner::Honest));
}

/// Two sources of 5 Mbit/s give the ten blocks below a root that came.
fn shares_the_rest(mut world: World) {
    world.block_len = MIB;
    for number in 1..11 {
        world.scheduler.want(cid(number), Urgency::Ahead, Some(*cid(0).hash()), world.now);
    }
    let ideal = Duration::from_secs_f64(10.0 * MIB as f64 * 8.0 / 10e6);
    while world.came.len() < 11 {
        assert!(world.step(world.start + ideal.mul_f64(1.4)), "{} came", world.came.len());
    }
    let totals = world.scheduler.totals();
    assert!(totals.late_blocks <= 1, "{totals:?}");
}

/// A source of 5 Mbit/s from which eight blocks are under way, and then one for which somebody waits.
fn busy(blocks: usize) -> World {
    let mut world = World::new(blocks, MIB / 4).peer(MS * 40, 5.0, Manner::Honest);
    for number in 0..9 {
        world.scheduler.want(cid(number), Urgency::Ahead, None, world.now);
    }
    while world.came.is_empty() {
        assert!(world.step(world.start + MS * 1000));
    }
    world.scheduler.want(cid(9), Urgency::Demand, None, world.now);
    world
}

#[test]
fn what_comes_next_is_not_called_off() {
    let mut world = busy(10).peer(MS * 50, 5.0, Manner::Honest);
    while world.came.len() < 10 {
        assert!(world.step(world.start + MS * 10_000));
    }
    assert!(!world.called_off.is_empty());
    assert!(!world.called_off.contains(&(0, cid(9))));
}

#[test]
fn what_another_may_have_is_not_called_off() {
    let mut world = busy(10);
    world = world.peer(MS * 50, 5.0, Manner::Part { of: 10, from: 9 });
    while world.scheduler.poll(world.now).is_some() {}
    world.scheduler.told(1, &cid(9), true, world.now);
    while world.came.len() < 10 {
        assert!(world.step(world.start + MS * 10_000));
    }
    assert_eq!(world.called_off, []);
}

#[test]
fn what_two_have_comes_from_both_though_the_last_block_does_not() {
    let mut world = World::new(9, MIB / 4).peer(MS * 40, 5.0, Manner::Honest);
    world = world.peer(MS * 50, 5.0, Manner::Part { of: 2, from: 0 });
    for number in 0..9 {
        world.scheduler.want(cid(number), Urgency::Ahead, None, world.now);
    }
    while world.came.len() < 9 {
        assert!(world.step(world.start + MS * 3600), "{} came", world.came.len());
    }
}

#[test]
fn all_are_asked_beside_the_only_one_who_is_known() {
    let mut world = World::new(9, MIB).peer(MS * 40, 5.0, Manner::Honest);
    let part = Manner::Part { of: 1000, from: 999 };
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    while world.came.is_empty() {
        assert!(world.step(world.start + MS * 2000));
    }
    for _ in 0..20 {
        world = world.peer(MS * 50, 5.0, part);
    }
    for number in 1..9 {
        world.scheduler.want(cid(number), Urgency::Demand, None, world.now);
    }
    while world.step(world.now + MS * 10) {}
    let asked: BTreeSet<_> =
        world.scheduler.wants.values().flat_map(|want| want.answers.keys()).collect();
    assert!(asked.len() >= 18, "{asked:?}");
}

#[test]
fn the_fast_one_gets_the_work() {
    let slow = |world: World| world.peer(MS * 20, 1.0, Manner::Honest);
    let mut world = slow(slow(World::new(128, MIB)).peer(MS * 20, 200.0, Manner::Honest));
    let share = world.share(64, 200.0);
    let totals = world.scheduler.totals();
    assert!(share > 0.75, "{share:.2}");
    assert!(totals.late_bytes <= HEDGE_BYTES * 2 + totals.bytes / HEDGE_SHARE, "{totals:?}");
}

/// A line of 1 Mbit/s, as many have to send: a block of 1 MiB takes 8 seconds.
#[test]
fn a_slow_source_is_not_taken_for_a_silent_one() {
    let mut world = World::new(12, MIB).peer(MS * 40, 1.0, Manner::Honest);
    let share = world.share(8, 1.0);
    let totals = world.scheduler.totals();
    assert!(share > 0.95, "{share:.2}");
    assert_eq!((world.peers[0].asked, totals.late_blocks + totals.unasked_blocks), (12, 0));
}

/// 400 kbit/s, and somebody who has left off: a block takes 21 seconds.
#[test]
fn who_is_of_no_use_does_not_hurry_a_slow_source() {
    let mut world = World::new(10, MIB).peer(MS * 40, 0.4, Manner::Honest);
    world = world.peer(MS * 40, 100.0, Manner::Honest);
    for number in 0..10 {
        world.scheduler.want(cid(number), Urgency::Demand, None, world.now);
        if number == 7 {
            world.peers[1].manner = Manner::Silent;
        }
        while !world.came.contains(&cid(number)) {
            assert!(world.step(world.start + Duration::from_mins(5)), "{number}");
        }
    }
    assert!(world.peers[0].asked <= 5, "{}", world.peers[0].asked);
}

#[test]
fn who_sends_bytes_and_no_block_hides_nobody() {
    let mut world = World::new(7, MIB).peer(MS * 40, 1.0, Manner::Honest);
    let want = |world: &mut World, number, limit| {
        world.scheduler.want(cid(number), Urgency::Ahead, None, world.now);
        let end = world.now + limit;
        while !world.came.contains(&cid(number)) {
            assert!(world.step(end), "{number}");
        }
    };
    for number in 0..6 {
        want(&mut world, number, MS * 10_000);
    }
    world.peers[0].manner = Manner::Trickler;
    world = world.peer(MS * 40, 100.0, Manner::Honest);
    want(&mut world, 6, MS * 12_000);
}

#[test]
fn second_copies_keep_to_their_bounds() {
    let mut world = World::new(80, MIB).peer(MS * 20, 1000.0, Manner::Honest);
    world = world.peer(MS * 20, 100.0, Manner::Honest);
    for number in 0..80 {
        world.scheduler.want(cid(number), Urgency::Demand, None, world.now);
        if number == 19 {
            while world.came.len() < 20 {
                assert!(world.step(world.start + MS * 10_000));
            }
        }
    }
    assert!(world.step(world.start + MS * 20_000));
    world.peers[0].manner = Manner::Silent;
    let mut most = 0;
    while world.came.len() < 80 {
        assert!(world.step(world.start + MS * 60_000));
        let two = world.scheduler.wants.values().filter(|want| want.under_way().count() > 1);
        most = most.max(two.count());
    }
    assert!((1..=5).contains(&most), "{most}");
}

/// From 20 Mbit/s to 0.6: what was asked for before takes two minutes now, and comes once.
#[test]
fn a_source_that_has_become_slow_is_not_given_up() {
    let mut world = World::reading_ahead(MS * 40, 20.0, 8);
    world.peers[0].rate = 0.6e6 / 8.0;
    let end = world.now + Duration::from_mins(5);
    while world.came.len() < 20 {
        assert!(world.step(end), "{}", world.came.len());
    }
    let totals = world.scheduler.totals();
    assert_eq!((totals.late_blocks, totals.unasked_blocks), (0, 0));
    assert!(world.peers[0].asked <= 22, "{}", world.peers[0].asked);
}

#[test]
fn what_is_wanted_now_is_asked_for_at_once() {
    let mut world = World::reading_ahead(MS * 2, 20.0, 8);
    world.scheduler.want(cid(39), Urgency::Demand, None, world.now);
    let asked = std::iter::from_fn(|| world.scheduler.poll(world.now));
    assert!(
        asked.into_iter().any(|ask| matches!(ask, Ask::Block(0, asked, ..) if asked == cid(39)))
    );
}

#[test]
fn what_is_wanted_now_waits_behind_little_of_a_slow_source() {
    let mut world = World::reading_ahead(MS * 40, 1.0, 12);
    let asked = world.now;
    world.scheduler.want(cid(39), Urgency::Demand, None, world.now);
    while !world.came.contains(&cid(39)) {
        assert!(world.step(asked + Duration::from_secs(30)));
    }
    assert!(world.now - asked < Duration::from_secs(26), "three blocks: {:?}", world.now - asked);
}

#[test]
fn a_dead_source_costs_one_time_out() {
    let mut world = World::new(256, MIB);
    world = world.peer(MS, 1000.0, Manner::Silent);
    for _ in 0..3 {
        world = world.peer(MS * 30, 300.0, Manner::Honest);
    }
    let took = world.read_all(64, Duration::from_secs(30));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(world.peers[0].asked < 16, "asked {} times", world.peers[0].asked);
}

#[test]
fn parts_come_from_those_who_have_them() {
    let part = |from| Manner::Part { of: 2, from };
    let mut world = World::new(200, 100_000)
        .peer(MS * 20, 100.0, part(0))
        .peer(MS * 20, 100.0, part(1))
        .peer(MS * 5, 100.0, Manner::Part { of: 1000, from: 999 });
    let took = world.read_all(32, Duration::from_secs(30));
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn who_has_one_root_is_not_asked_for_another() {
    let part = |from| Manner::Part { of: 2, from };
    let mut world =
        World::new(200, 100_000).peer(MS * 20, 100.0, part(0)).peer(MS * 20, 100.0, part(1));
    world.roots = 2;
    let took = world.read_all(32, Duration::from_secs(30));
    let asked: Vec<_> = world.peers.iter().map(|peer| peer.asked).collect();
    // Only before it is known who has what, both are asked for all.
    assert!(asked.iter().sum::<usize>() <= 200 + 32, "{asked:?}");
    assert!(took < Duration::from_millis(1800), "{took:?}");
}

#[test]
fn a_liar_is_left_alone() {
    let mut world = World::new(64, MIB);
    world = world.peer(MS, 1000.0, Manner::Liar).peer(MS * 50, 100.0, Manner::Honest);
    let took = world.read_all(16, Duration::from_secs(30));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(world.peers[0].asked < 16, "asked {} times", world.peers[0].asked);
    assert!(world.scheduler.totals().unasked_blocks > 0);
}

/// Reads a block every half second for two minutes beside a source of this manner, which is the nearer one.
fn read_now_and_then(manner: Manner) -> (World, Duration) {
    let mut world = World::new(240, 100_000);
    world = world.peer(MS, 1000.0, manner).peer(MS * 50, 100.0, Manner::Honest);
    let mut slowest = Duration::ZERO;
    for number in 0..240 {
        let asked = world.now;
        world.scheduler.want(cid(number), Urgency::Demand, None, world.now);
        while !world.came.contains(&cid(number)) {
            assert!(world.step(asked + MS * 20_000), "block {number} after 20 s");
        }
        slowest = slowest.max(world.now - asked);
        while world.step(asked + MS * 500) {}
    }
    (world, slowest)
}

#[test]
fn promises_and_no_block_are_as_good_as_silence() {
    let mut world = World::new(64, MIB);
    world = world.peer(MS, 1000.0, Manner::Promiser).peer(MS * 50, 100.0, Manner::Honest);
    let took = world.read_all(16, Duration::from_mins(1));
    assert!(took < Duration::from_secs(10), "{took:?}");
    let (world, slowest) = read_now_and_then(Manner::Promiser);
    assert!(slowest < MS * 1000, "{slowest:?}");
    // After two seconds, and each time after twice as long.
    assert!(world.peers[0].asked < 16, "asked {} times", world.peers[0].asked);
}

/// Half of them are nearer than the one that gives.
#[test]
fn who_gives_is_found_among_many_that_only_promise() {
    let mut world = World::new(64, MIB);
    for number in 0..60 {
        world = world.peer(MS * (10 + number), 1000.0, Manner::Promiser);
        if number == 30 {
            world = world.peer(MS * 41, 300.0, Manner::Honest);
        }
    }
    let took = world.read_all(16, Duration::from_mins(1));
    assert!(took < Duration::from_secs(20), "{took:?}");
}

/// They may share one slow line.
#[test]
fn of_what_comes_slowly_few_copies_are_asked_for() {
    let mut world = World::new(1, MIB);
    for _ in 0..16 {
        world = world.peer(MS * 50, 5.0, Manner::Honest);
    }
    world.read_all(1, Duration::from_mins(1));
    let asked: usize = world.peers.iter().map(|peer| peer.asked).sum();
    assert!(asked <= 2, "{asked} copies");
}

#[test]
fn who_takes_back_what_it_said_is_believed_no_more() {
    let (world, slowest) = read_now_and_then(Manner::Denier);
    assert!(slowest < MS * 200, "{slowest:?}");
    assert!(world.peers[0].asked < 40, "asked {} times", world.peers[0].asked);
}

#[test]
fn what_is_held_against_a_source_is_not_forgotten_when_it_leaves() {
    let mut world = World::new(20, 1000).peer(MS, 100.0, Manner::Silent);
    for number in 0..20 {
        world.scheduler.want(cid(number), Urgency::Demand, None, world.now);
    }
    while world.step(world.start + MS * 5000) {}
    let before = world.peers[0].asked;
    assert!(before >= 4, "asked {before} times");
    for _ in 0..10 {
        world.scheduler.leave(0, world.now);
        world.scheduler.join(0, world.now);
        while world.step(world.now + MS * 150) {}
    }
    assert_eq!(world.peers[0].asked, before, "it is left alone");
    while world.step(world.start + MS * 10_000) {}
    assert_eq!(world.peers[0].asked, before + 1, "one chance");
}

#[test]
fn who_leaves_again_and_again_without_giving_anything_is_left_alone() {
    let mut world = World::new(1, 1000).peer(MS, 100.0, Manner::Silent);
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    for _ in 0..100 {
        while world.step(world.now + MS * 100) {}
        world.scheduler.leave(0, world.now);
        world.scheduler.join(0, world.now);
    }
    assert!((2..6).contains(&world.peers[0].asked), "asked {} times", world.peers[0].asked);
    let mut world = World::new(1, 1000).peer(MS, 100.0, Manner::Honest);
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    assert!(matches!(world.scheduler.poll(world.now), Some(Ask::Block(0, ..))));
    world.scheduler.leave(0, world.now);
    world.scheduler.join(0, world.now);
    while world.step(world.start + MS * 50) {}
    assert!(world.came.contains(&cid(0)), "once may happen to anybody");
}

#[test]
fn copies_that_nobody_asked_for_earn_nothing() {
    let mut world = World::new(2, 1000).peer(MS, 100.0, Manner::Honest);
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    while world.step(world.start + MS * 50) {}
    assert!(world.came.contains(&cid(0)));
    world.peers[0].manner = Manner::Silent;
    world.scheduler.want(cid(1), Urgency::Demand, None, world.now);
    for _ in 0..200 {
        while world.step(world.now + MS * 50) {}
        assert_eq!(world.scheduler.came(0, &cid(0), MIB, world.now), Verdict::Late);
    }
    let totals = world.scheduler.totals();
    assert!(totals.late_blocks <= COPIES_MAX.into(), "{totals:?}");
    assert!(world.peers[0].asked > 2, "it was found silent, and asked again");
}

#[test]
fn one_block_is_not_held_back_for_ever_by_answers_to_others() {
    let mut world = World::new(1, 1000).peer(MS, 100.0, Manner::Silent);
    world.scheduler.want(cid(0), Urgency::Ahead, None, world.now);
    while world.step(world.start + MS * 100) {}
    world = world.peer(MS * 20, 100.0, Manner::Honest);
    for other in 100.. {
        if world.came.contains(&cid(0)) {
            break;
        }
        assert!(world.now < world.start + OVERDUE_MAX, "it never comes");
        world.scheduler.want(cid(other), Urgency::Ahead, None, world.now);
        while world.step(world.now + MS * 500) {}
        world.scheduler.told(0, &cid(other), false, world.now);
        world.scheduler.cancel(&cid(other));
    }
}

#[test]
fn what_nobody_has_is_searched_for_and_comes_when_somebody_does() {
    let mut world = World::new(1, 1000).peer(MS * 20, 100.0, Manner::Part { of: 2, from: 1 });
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    while world.step(world.start + MS * 900) {}
    assert!(world.searches.is_empty());
    while world.step(world.start + MS * 1100) {}
    assert_eq!(world.searches, [cid(0)]);
    world = world.peer(MS * 20, 100.0, Manner::Honest);
    while world.step(world.start + MS * 1150) {}
    assert!(world.came.contains(&cid(0)));
}

#[test]
fn a_source_that_leaves_is_replaced_at_once() {
    let mut world = World::new(2, MIB).peer(MS * 20, 8.0, Manner::Honest);
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    while world.step(world.start + MS * 100) {}
    world.scheduler.leave(0, world.now);
    world = world.peer(MS * 20, 1000.0, Manner::Honest);
    while world.step(world.start + MS * 200) {}
    assert!(world.came.contains(&cid(0)));
}

#[test]
fn what_is_not_wanted_any_more_is_called_off() {
    let mut world = World::new(1, MIB).peer(MS * 20, 8.0, Manner::Honest).peer(
        MS * 20,
        8.0,
        Manner::Part { of: 2, from: 1 },
    );
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    while world.step(world.start + MS * 100) {}
    world.scheduler.cancel(&cid(0));
    let asks: BTreeSet<_> = std::iter::from_fn(|| match world.scheduler.poll(world.now)? {
        Ask::Cancel(peer, _) => Some(peer),
        other => panic!("{other:?}"),
    })
    .collect();
    assert_eq!(asks, BTreeSet::from([0, 1]));
    assert_eq!(world.scheduler.wanted().count(), 0);
    let late = world.scheduler.came(0, &cid(0), MIB, world.now);
    assert_eq!(late, Verdict::Late, "on its way when it was called off");
    assert_eq!(world.scheduler.wakes_at(world.now), None);
}

#[test]
fn whatever_happens_each_want_is_idle_or_under_way() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    let mut runner = TestRunner::new(Config::with_cases(300));
    let events = proptest::collection::vec((0..8_u8, 0..4_usize, 0..6_usize, 0..4000_u64), 1..120);
    runner
        .run(&events, |events| {
            let mut scheduler = Scheduler::<usize>::default();
            let mut now = Instant::now();
            for (kind, source, number, ms) in events {
                let cid = cid(number);
                let urgency = if ms % 2 == 0 { Urgency::Ahead } else { Urgency::Demand };
                match kind {
                    0 => scheduler.want(cid, urgency, None, now),
                    1 => scheduler.cancel(&cid),
                    2 => scheduler.join(source, now),
                    3 => scheduler.leave(source, now),
                    4 => scheduler.told(source, &cid, ms % 2 == 0, now),
                    5 => drop(scheduler.came(source, &cid, 1000, now)),
                    6 => scheduler.distrust(source, now),
                    _ => now += Duration::from_millis(ms),
                }
                if ms % 3 > 0 {
                    let mut asks = 0;
                    while scheduler.poll(now).is_some() {
                        asks += 1;
                        prop_assert!(asks < 10_000, "it never ends");
                    }
                    let wakes = scheduler.wakes_at(now);
                    prop_assert!(wakes.is_none_or(|wakes| wakes > now), "it wakes up for nothing");
                }
                scheduler.check();
            }
            Ok(())
        })
        .unwrap();
}

impl Scheduler<usize> {
    fn check(&self) {
        assert_eq!(self.ids.len(), self.wants.len());
        for (id, want) in &self.wants {
            assert_eq!(self.ids[want.cid.hash()], *id);
            let is_idle = self.idle.contains(&(Reverse(want.urgency), *id));
            assert_eq!(is_idle, want.under_way().next().is_none(), "{want:?}");
            for (source, _) in want.under_way() {
                assert!(self.sources.contains_key(&source));
            }
        }
        assert!(self.idle.iter().all(|(_, id)| self.wants.contains_key(id)));
        let under_way: usize = self.sources.values().map(Source::under_way_count).sum();
        let asked: usize = self.wants.values().map(|want| want.under_way().count()).sum();
        assert_eq!(under_way, asked);
    }
}

#[test]
fn a_block_that_a_stubborn_source_lacks_holds_up_no_other() {
    let mut world = World::new(2, MIB).peer(MS * 20, 100.0, Manner::Stubborn);
    for (number, seconds) in [(0, 100), (1, 2)] {
        world.scheduler.want(cid(number), Urgency::Demand, None, world.now);
        let end = world.now + MS * 1000 * seconds;
        while world.step(end) {}
    }
    assert!(world.came.contains(&cid(1)));
}

#[test]
fn a_block_that_a_source_fails_to_send_goes_behind_others() {
    let mut world = World::new(3, MIB).peer(MS * 20, 100.0, Manner::Honest);
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    assert!(matches!(world.scheduler.poll(world.now), Some(Ask::Block(0, ..))));
    world.scheduler.distrust(0, world.now);
    for (number, urgency) in [(1, Urgency::Ahead), (2, Urgency::Demand)] {
        world.scheduler.want(cid(number), urgency, None, world.now);
    }
    let back = world.now + MS * 2000;
    let Some(Ask::Block(0, first, ..)) = world.scheduler.poll(back) else { panic!("it is asked") };
    assert_eq!(first, cid(2));
}

#[test]
fn what_may_be_lost_is_asked_for_again_at_once() {
    let mut world = World::new(1, MIB).peer(MS * 20, 100.0, Manner::Honest);
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    let ask = |world: &mut World| world.scheduler.poll(world.now);
    let asks = |repeats| Some(Ask::Block(0, cid(0), Urgency::Demand, repeats));
    assert_eq!(ask(&mut world), asks(false));
    world.scheduler.interrupted(0, world.now);
    assert_eq!(ask(&mut world), asks(true));
    world.scheduler.interrupted(0, world.now);
    assert_eq!(ask(&mut world), asks(true), "it is not held against the source");
}

#[test]
fn a_ping_that_waits_behind_blocks_says_nothing_of_the_way() {
    let mut world = World::new(1, MIB).peer(MS * 20, 100.0, Manner::Honest);
    let expected = |world: &World| world.scheduler.sources[&0].expected();
    world.scheduler.want(cid(0), Urgency::Demand, None, world.now);
    assert!(matches!(world.scheduler.poll(world.now), Some(Ask::Block(0, ..))));
    let before = expected(&world);
    world.scheduler.measured(0, MS * 3000);
    assert_eq!(expected(&world), before);
    world.scheduler.cancel(&cid(0));
    world.scheduler.measured(0, MS * 3000);
    assert!(expected(&world) > MS * 1000, "the way has become longer");
}
