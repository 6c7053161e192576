//! Files that become durable together.

use super::*;

fn begin(group: &AssemblyGroup, numbers: Range<u32>) -> Assembly {
    let mut assembly = group.begin().unwrap();
    assert!(leaves(numbers).iter().all(|leaf| assembly.push(leaf, LEN as u64).unwrap()));
    assembly
}

#[test]
fn many_files_are_there_when_their_group_is_finished() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let mut group = AssemblyGroup::new(Arc::clone(&store));
    for n in 0..50 {
        let assembly = begin(&group, n * 4..n * 4 + 4);
        group.add(assembly).unwrap();
    }
    assert!(here(&store, 0..200).is_empty(), "nobody sees them before they are durable");
    group.finish().unwrap();
    group.finish().unwrap();
    assert_eq!((here(&store, 0..200).len(), fixture.names().len()), (200, 100));
    assert!((0..50).all(|n| is_whole(&store, n * 4..n * 4 + 4)));
    assert_eq!(store.disk_bytes(), crate::store::diskio::disk_usage(&fixture.packs).unwrap());
    drop((group, store));
    assert_eq!(here(&fixture.open(None), 0..200).len(), 200);
}

#[test]
fn a_large_group_finishes_itself() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let mut group = AssemblyGroup::new(Arc::clone(&store));
    let mut waited = 0;
    for n in 0..300 {
        let assembly = begin(&group, n..n + 1);
        group.add(assembly).unwrap();
        waited = waited.max(fixture.count("file.new"));
    }
    assert!((100..200).contains(&waited), "{waited}");
    drop(group);
    let there = here(&store, 0..300).len();
    assert!((200..300).contains(&there), "{there}");
    assert_eq!(fixture.names().len(), 2 * there, "what was not finished left nothing");
}

#[test]
fn what_another_file_of_the_group_has_is_not_stored_twice() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let mut group = AssemblyGroup::new(Arc::clone(&store));
    for numbers in [0..4, 0..4, 2..6] {
        let assembly = begin(&group, numbers);
        group.add(assembly).unwrap();
    }
    group.finish().unwrap();
    assert_eq!((here(&store, 0..6).len(), fixture.count("file")), (6, 2));
    assert_eq!(store.stats().unwrap().blocks, 6);
}

#[test]
fn a_group_that_fails_leaves_nothing() {
    for (call, errno) in [(Call::Write, nix::libc::ENOSPC), (Call::Sync, nix::libc::EIO)] {
        for after in [0, 3, 17] {
            let fixture = Fixture::new();
            let store = fixture.open(None);
            let mut group = AssemblyGroup::new(Arc::clone(&store));
            for n in 0..20 {
                let assembly = begin(&group, n * 2..n * 2 + 2);
                group.add(assembly).unwrap();
            }
            fixture.disk.fail(call, after, errno);
            group.finish().unwrap_err();
            assert!(fixture.names().is_empty(), "{:?}", fixture.names());
            assert_eq!((store.disk_bytes(), here(&store, 0..40)), (0, Vec::new()));
        }
    }
}

#[test]
fn nothing_relies_on_a_group_that_failed() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let mut group = AssemblyGroup::new(Arc::clone(&store));
    let first = begin(&group, 0..4);
    group.add(first).unwrap();
    let (relying, same) = (begin(&group, 2..6), begin(&group, 0..4));
    fixture.disk.fail(Call::Sync, 0, nix::libc::EIO);
    group.finish().unwrap_err();
    fixture.disk.heal();
    for assembly in [relying, same] {
        assert!(matches!(group.add(assembly), Err(StoreError::Io { .. })));
    }
    let again = begin(&group, 0..4);
    group.add(again).unwrap();
    group.finish().unwrap();
    assert_eq!(here(&store, 0..6), [0, 1, 2, 3]);
}
