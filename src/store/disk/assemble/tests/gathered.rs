//! Files whose leaves came one by one: what is laid out, what is not, and what a failure costs.

use super::*;

fn gather(store: &Arc<DiskStore>, numbers: impl IntoIterator<Item = u32>) -> Gathered {
    store.gather(&ranges(numbers), &mut || ControlFlow::Continue(())).unwrap()
}

#[test]
fn leaves_that_came_one_by_one_are_gathered_and_freed_in_their_packs() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..30)).unwrap();
    assert!(!is_whole(&store, 5..25));
    assert_eq!(gather(&store, 5..25), Gathered::Done);
    assert!(matches!(store.whole_file(&ranges(5..25), 0).unwrap(), FileState::Whole(_)));
    assert_eq!(here(&store, 0..30).len(), 30);
    assert_eq!(store.stats().unwrap().blocks, 30, "no leaf is here twice");
    let usage = crate::store::diskio::disk_usage(&fixture.packs).unwrap();
    assert_eq!(store.disk_bytes(), usage);
    // A page of each leaf that went has a part of another.
    assert!(usage < 42 * LEN as u64, "{usage}");
    let content: Vec<u8> = leaves(5..25).iter().flat_map(|leaf| leaf.data().to_vec()).collect();
    assert_eq!(std::fs::read(fixture.packs.join("0000000002.file")).unwrap(), content);
    drop(store);
    let store = fixture.open(None);
    assert_eq!(here(&store, 0..30).len(), 30);
    assert!(is_whole(&store, 5..25));
    store.put(&leaves(0..30)).unwrap();
    assert_eq!(store.stats().unwrap().blocks, 30, "a put relies on it");
    sweep(&store, 20..30);
    assert_eq!(here(&store, 0..30), (20..30).collect::<Vec<_>>());
}

#[test]
fn a_pack_of_which_all_is_gathered_is_deleted() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..30)).unwrap();
    store.close().unwrap();
    drop(store);
    let (pack_blocks_max, assemble_min_bytes) = (1, 1);
    let options = DiskOptions { pack_blocks_max, assemble_min_bytes, ..DiskOptions::default() };
    let store = Arc::new(DiskStore::open(&fixture.packs, options).unwrap());
    store.put(&leaves(99..100)).unwrap();
    assert_eq!(gather(&store, 0..30), Gathered::Done);
    assert_eq!((fixture.count("car"), fixture.count("dead")), (1, 0), "{:?}", fixture.names());
    assert_eq!(here(&store, 0..30).len(), 30);
}

#[test]
fn what_cannot_be_gathered_stays_as_it_is() {
    let fixture = Fixture::new();
    let store = fixture.open(Some(2_000_000));
    store.put(&leaves(0..40)).unwrap();
    assert_eq!(gather(&store, 30..50), Gathered::Missing);
    assert_eq!(gather(&store, [7; 3]), Gathered::Declined("most of it is the same again"));
    assert_eq!(gather(&store, 0..0), Gathered::Declined("it is too short, or has too many leaves"));
    let lies = Gathered::Declined(gather::OTHER_LEAF);
    let with = |change: fn(&mut FileRange)| {
        let mut lying = ranges(0..3);
        change(&mut lying[1]);
        store.gather(&lying, &mut || ControlFlow::Continue(())).unwrap()
    };
    assert_eq!(with(|leaf| leaf.len += 1), lies);
    assert_eq!(with(|leaf| leaf.len = u32::MAX), lies);
    assert_eq!(with(|leaf| leaf.offset -= 1), lies, "leaves that overlap");
    assert_eq!(with(|leaf| leaf.offset += 1), lies, "a hole");
    let stop = &mut || ControlFlow::Break(());
    assert_eq!(store.gather(&ranges(0..10), stop).unwrap(), Gathered::Stopped);
    assert_eq!((fixture.count("file"), fixture.count("file.new")), (0, 0));
    assert_eq!(gather(&store, 0..10), Gathered::Done);
    let shared = Gathered::Declined("another file has a part of it");
    assert_eq!(gather(&store, 0..10), Gathered::Whole);
    for other in [5..15, 9..12, 1..11] {
        assert_eq!(gather(&store, other.clone()), shared, "{other:?}");
    }
    store.put(&leaves(100..180)).unwrap();
    let used = store.disk_bytes();
    assert_eq!(gather(&store, 100..180), Gathered::Declined("there is no room for it twice"));
    assert_eq!((store.disk_bytes(), fixture.count("file")), (used, 1));
    assert!(!*store.subscribe_pressure().borrow(), "nobody makes room for it");
    assert_eq!(gather(&store, 20..30), Gathered::Done);
}

#[test]
fn a_leaf_that_is_damaged_is_not_gathered() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..5)).unwrap();
    store.commit().unwrap();
    let path = fixture.packs.join("0000000001.car");
    let file = File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 2 * LEN as u64 + 900).unwrap();
    assert_eq!(gather(&store, 0..5), Gathered::Missing);
    assert_eq!((fixture.count("file"), fixture.count("file.new")), (0, 0));
    store.put(&leaves(0..5)).unwrap();
    assert_eq!(gather(&store, 0..5), Gathered::Done, "it was healed");
    assert!(is_whole(&store, 0..5));
}

#[test]
fn a_gathered_file_has_holes_and_repeats() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..4)).unwrap();
    let numbers = [1, 0, 0, 0, 0, 0, 2, 1, 3, 0];
    assert_eq!(gather(&store, numbers), Gathered::Done);
    assert!(matches!(store.whole_file(&ranges(numbers), u64::MAX).unwrap(), FileState::Whole(_)));
    assert!(store.disk_bytes() < 8 * LEN as u64, "zeros take no disk: {}", store.disk_bytes());
    assert_eq!(here(&store, 0..4).len(), 4);
    drop(store);
    let store = fixture.open(None);
    assert!(matches!(store.whole_file(&ranges(numbers), u64::MAX).unwrap(), FileState::Whole(_)));
}

#[test]
fn a_disk_that_fails_while_a_file_is_gathered_costs_no_leaf() {
    for (call, errno) in [(Call::Write, nix::libc::ENOSPC), (Call::Sync, nix::libc::EIO)] {
        for after in 0..12 {
            let fixture = Fixture::new();
            let store = fixture.open(None);
            store.put(&leaves(0..6)).unwrap();
            store.commit().unwrap();
            fixture.disk.fail(call, after, errno);
            let go_on = &mut || ControlFlow::Continue(());
            drop(store.gather(&ranges(0..6), go_on));
            assert_eq!(here(&store, 0..6).len(), 6, "{call:?} {after}");
            fixture.disk.heal();
            drop(store);
            let store = fixture.open(None);
            assert_eq!(here(&store, 0..6).len(), 6, "{call:?} {after}");
            assert_eq!(fixture.count("file.new"), 0, "{call:?} {after}");
        }
    }
}

#[test]
fn readers_eviction_and_gathering_do_not_meet() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let done = std::sync::atomic::AtomicBool::new(false);
    store.put(&leaves(0..4)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                sweep(&store, 0..4000);
            }
        });
        scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Acquire) {
                assert_eq!(store.get(leaf(n % 4).cid()).unwrap(), Some(leaf(n % 4)), "kept");
                let range = store.read_range(leaf(n % 4).cid(), 5..9).unwrap();
                assert_eq!(range.unwrap().bytes, leaf(n % 4).data()[5..9]);
                n += 1;
            }
        });
        assert_eq!(gather(&store, 0..4), Gathered::Done);
        for round in 1..60 {
            let first = round * 4;
            store.put(&leaves(first..first + 4)).unwrap();
            assert_eq!(gather(&store, first..first + 4), Gathered::Done, "{round}");
            assert_eq!(here(&store, first..first + 4).len(), 4, "{round}");
            assert!(is_whole(&store, first..first + 4), "{round}");
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(here(&store, 0..240).len(), 240);
}

#[test]
fn a_damaged_file_is_not_in_the_way_of_the_one_that_is_laid_out_anew() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let numbers = [1, 2, 1];
    fixture.assembly(&store, &numbers.map(leaf)).finish().unwrap();
    let path = fixture.packs.join("0000000001.file");
    std::fs::write(path, vec![9; 3 * LEN]).unwrap();
    for n in [1, 2] {
        store.get(leaf(n).cid()).map(drop).unwrap_err();
    }
    store.put(&leaves(1..3)).unwrap();
    assert_eq!(gather(&store, numbers), Gathered::Done);
    drop(store);
    // A start does not know of the damage.
    for store in [fixture.open(None), fixture.open(None)] {
        let state = store.whole_file(&ranges(numbers), u64::MAX).unwrap();
        assert!(matches!(state, FileState::Whole(_)));
    }
}

#[test]
fn repeats_are_proved_once_since_the_start() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..4)).unwrap();
    let numbers = [1, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let other = [1, 0, 0, 0, 0, 0, 0, 0, 1, 2];
    assert_eq!(gather(&store, numbers), Gathered::Done);
    let state = |numbers, max| store.whole_file(&ranges(numbers), max).unwrap();
    assert!(matches!(state(numbers, 2 * LEN as u64), FileState::Unproved));
    assert!(matches!(state(numbers, u64::MAX), FileState::Whole(_)));
    assert!(matches!(state(numbers, 0), FileState::Whole(_)));
    assert!(matches!(state(other, 0), FileState::Unproved), "other repeats");
    assert!(matches!(state(other, u64::MAX), FileState::Parts), "which are not there");
    assert!(matches!(state(numbers, 0), FileState::Whole(_)));
}

#[test]
fn what_is_removed_while_it_is_gathered_stays_removed() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..10)).unwrap();
    let mut calls = 0;
    let go_on = &mut || {
        calls += 1;
        if calls == 6 {
            assert!(store.remove(leaf(1).cid()).unwrap());
        }
        ControlFlow::Continue(())
    };
    assert_eq!(store.gather(&ranges(0..10), go_on).unwrap(), Gathered::Missing);
    assert_eq!(store.get(leaf(1).cid()).unwrap(), None);
    assert_eq!((fixture.count("file"), fixture.count("file.new")), (0, 0));
    drop(store);
    assert_eq!(here(&fixture.open(None), 0..10).len(), 9);
}

#[test]
fn a_file_that_lost_leaves_gets_them_back() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..10)).unwrap();
    assert_eq!(gather(&store, 0..10), Gathered::Done);
    let whole = store.disk_bytes();
    let lost = [0, 3, 4, 9];
    for n in lost {
        assert!(store.remove(leaf(n).cid()).unwrap());
    }
    assert_eq!(gather(&store, 0..10), Gathered::Missing);
    store.put(&lost.map(leaf)).unwrap();
    let stop = &mut || ControlFlow::Break(());
    assert_eq!(store.gather(&ranges(0..10), stop).unwrap(), Gathered::Stopped);
    assert!(!is_whole(&store, 0..10));
    assert_eq!(gather(&store, 0..10), Gathered::Done);
    assert!(is_whole(&store, 0..10));
    assert_eq!(gather(&store, 0..10), Gathered::Whole);
    assert_eq!((fixture.count("file"), store.stats().unwrap().blocks), (1, 10), "none is twice");
    let usage = crate::store::diskio::disk_usage(&fixture.packs).unwrap();
    assert_eq!(store.disk_bytes(), usage);
    assert!(usage < whole + 4 * LEN as u64, "{usage}, {whole}");
    assert!(store.remove(leaf(3).cid()).unwrap(), "it can go again");
    drop(store);
    let store = fixture.open(None);
    let rest: Vec<_> = (0..10).filter(|n| *n != 3).collect();
    assert_eq!(here(&store, 0..10), rest);
    sweep(&store, 0..0);
    assert_eq!((fixture.count("file"), fixture.count("leaves")), (0, 0), "{:?}", fixture.names());
}

#[test]
fn a_file_with_a_damaged_leaf_is_healed() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    fixture.assembly(&store, &leaves(0..5)).finish().unwrap();
    let path = fixture.packs.join("0000000001.file");
    let file = File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 2 * LEN as u64 + 900).unwrap();
    store.get(leaf(2).cid()).map(drop).unwrap_err();
    store.put(&leaves(2..3)).unwrap();
    assert_eq!(gather(&store, 0..5), Gathered::Done);
    assert!(is_whole(&store, 0..5));
    drop(store);
    let store = fixture.open(None);
    assert!(is_whole(&store, 0..5));
    assert_eq!(store.stats().unwrap().blocks, 5);
}

#[test]
fn a_disk_that_fails_while_a_file_is_filled_costs_no_leaf() {
    for (call, errno) in [(Call::Write, nix::libc::ENOSPC), (Call::Sync, nix::libc::EIO)] {
        for after in 0..12 {
            let fixture = Fixture::new();
            let store = fixture.open(None);
            store.put(&leaves(0..6)).unwrap();
            assert_eq!(gather(&store, 0..6), Gathered::Done);
            for n in 2..4 {
                store.remove(leaf(n).cid()).unwrap();
            }
            store.put(&leaves(2..4)).unwrap();
            store.commit().unwrap();
            fixture.disk.fail(call, after, errno);
            drop(store.gather(&ranges(0..6), &mut || ControlFlow::Continue(())));
            assert_eq!(here(&store, 0..6).len(), 6, "{call:?} {after}");
            fixture.disk.heal();
            drop(store);
            let store = fixture.open(None);
            assert_eq!(here(&store, 0..6).len(), 6, "{call:?} {after}");
            let again = gather(&store, 0..6);
            assert!(is_whole(&store, 0..6), "{call:?} {after}: {again:?}");
        }
    }
}

#[test]
fn a_hole_that_reaches_into_another_leaf_is_not_filled() {
    // One at the wrong place, and one that the file does not have beside it.
    for (is_other, hole) in [(false, 1), (true, 2)] {
        let fixture = Fixture::new();
        let store = fixture.open(None);
        store.put(&leaves(0..4)).unwrap();
        assert_eq!(gather(&store, 0..4), Gathered::Done);
        let list = Arc::clone(&store.packs.read());
        let file = list.packs.iter().find(|pack| matches!(***pack, Pack::Assembled(_))).unwrap();
        let mut entries: Vec<_> = file.entries().into_iter().map(|(entry, _)| entry).collect();
        let of_hole = |entry: &&Entry| entry.key == BlockKey::of(leaf(hole).cid());
        let mut changed = *entries.iter().find(of_hole).unwrap();
        changed.start -= LEN as u64 / 2;
        if is_other {
            changed.key = BlockKey::of(leaf(9).cid());
        }
        entries.retain(|entry| entry.key != changed.key);
        entries.push(changed);
        let path = fixture.packs.join(format!("{:010}.leaves", file.id().0));
        index::write(&*fixture.disk, &path, file.id(), file.covered_len(), entries).unwrap();
        drop((list, store));
        let store = fixture.open(None);
        store.remove(leaf(hole).cid()).unwrap();
        store.put(&[leaf(hole)]).unwrap();
        assert!(matches!(gather(&store, 0..4), Gathered::Declined(_)), "{hole}");
        assert_eq!(here(&store, 0..4), [0, 1, 2, 3]);
    }
}

#[test]
fn what_is_removed_while_it_is_filled_stays_removed() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..6)).unwrap();
    assert_eq!(gather(&store, 0..6), Gathered::Done);
    for n in 2..4 {
        store.remove(leaf(n).cid()).unwrap();
    }
    store.put(&leaves(2..4)).unwrap();
    let mut calls = 0;
    let go_on = &mut || {
        calls += 1;
        if calls == 2 {
            assert!(store.remove(leaf(2).cid()).unwrap());
        }
        ControlFlow::Continue(())
    };
    assert_eq!(store.gather(&ranges(0..6), go_on).unwrap(), Gathered::Missing);
    assert_eq!(here(&store, 0..6), [0, 1, 3, 4, 5]);
    drop(store);
    assert_eq!(here(&fixture.open(None), 0..6), [0, 1, 3, 4, 5]);
}

#[test]
fn who_comes_late_to_bury_a_leaf_leaves_what_was_filled_since() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..6)).unwrap();
    assert_eq!(gather(&store, 0..6), Gathered::Done);
    let file = store.pack_now(PackId(2)).unwrap();
    let (entry, _) = file.find(&BlockKey::of(leaf(3).cid())).unwrap();
    store.remove(leaf(3).cid()).unwrap();
    store.put(&leaves(3..4)).unwrap();
    assert_eq!(gather(&store, 0..6), Gathered::Done);
    store.give_back(PackId(2), &[entry]).unwrap();
    assert_eq!(here(&store, 0..6).len(), 6);
    drop(store);
    assert_eq!(here(&fixture.open(None), 0..6).len(), 6);
}

#[test]
fn removing_eviction_and_filling_do_not_meet() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..4)).unwrap();
    assert_eq!(gather(&store, 0..4), Gathered::Done);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                store.remove(leaf(1).cid()).unwrap();
                sweep(&store, 2..4);
            }
        });
        for _ in 0..200 {
            store.put(&leaves(0..4)).unwrap();
            let gathered = gather(&store, 0..4);
            assert_eq!(here(&store, 2..4), [2, 3], "kept: {gathered:?}");
        }
        done.store(true, Ordering::Release);
    });
    store.put(&leaves(0..4)).unwrap();
    let gathered = gather(&store, 0..4);
    assert_eq!(here(&store, 0..4).len(), 4, "{gathered:?}");
    drop(store);
    assert_eq!(here(&fixture.open(None), 0..4).len(), 4);
}
