//! Pins: which DAGs are kept. They cannot be rebuilt, so each change is in the journal, synced,
//! before it is acknowledged.
//!
//! Pins are by CID as it was given: a CIDv0 and a CIDv1 of one block are two pins. Whether the
//! pinned blocks are here is not known to this layer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::StoreError;
use super::diskio::DiskIo;
use super::journal::{self, Journal};
use crate::block::{Cid, cid_from_bytes};

/// Longest name of a pin in bytes (kubo's and the pinning service API's limit).
pub const PIN_NAME_LEN_MAX: usize = 255;
/// The journal is compacted when more records than this, and more than half of all, say nothing any
/// more: an average compaction then costs less than one more byte written per byte appended.
const STALE_RECORDS_MAX: usize = 1000;

const TAG_PIN: u8 = 1;
const TAG_UNPIN: u8 = 2;
const TAG_CLEAN_STOP: u8 = 3;

/// How much of a DAG a pin keeps (spec 10 §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PinMode {
    /// The block and everything below it.
    Recursive,
    /// The block alone.
    Direct,
}

/// A pinned CID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What is pinned.
    pub cid: Cid,
    /// How much of it.
    pub mode: PinMode,
    /// A name for people, at most [`PIN_NAME_LEN_MAX`] bytes.
    pub name: Option<String>,
}

/// The pins of a repository; clones share them.
#[derive(Debug, Clone)]
pub struct Pins {
    ledger: Arc<Ledger>,
    changes: Arc<watch::Sender<u64>>,
}

#[derive(Debug)]
struct Ledger {
    /// `None` once the repository is closed. Locked before `state`, and while the disk is waited
    /// for; reading waits for `state` only.
    journal: Mutex<Option<Journal>>,
    state: RwLock<State>,
}

/// What the journal says in sum.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    pins: BTreeMap<Cid, Pin>,
    /// Number of the last clean stop.
    generation: u64,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Record {
    Pin(Pin),
    Unpin(Cid),
    CleanStop(u64),
}

impl Pins {
    /// Creates an empty journal at `path`.
    pub(super) fn init(path: &Path, disk: Arc<dyn DiskIo>) -> Result<(), StoreError> {
        Journal::write_new(path, disk, &[]).map(drop)
    }

    /// Opens the journal at `path`; repairs what an unclean stop left behind.
    ///
    /// The caller holds the lock on the repository.
    ///
    /// # Errors
    /// [`StoreError::NoJournal`], [`StoreError::Version`], [`StoreError::Io`].
    pub fn open(path: &Path, disk: Arc<dyn DiskIo>) -> Result<Self, StoreError> {
        let (journal, payloads) = Journal::open(path, disk)?;
        let mut state = State::default();
        for payload in payloads {
            let record = Record::decode(&payload).ok_or_else(|| StoreError::Version {
                path: path.to_owned(),
                found: format!("with a record of type {}", payload.first().unwrap_or(&0)),
                known: journal::VERSION,
            })?;
            state.apply(record);
        }
        let ledger = Ledger { journal: Mutex::new(Some(journal)), state: RwLock::new(state) };
        let changes = Arc::new(watch::Sender::new(0));
        Ok(Self { ledger: Arc::new(ledger), changes })
    }

    /// Pins a CID, or changes the name or mode of its pin; durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::PinnedRecursively`] for a direct pin on a recursive one,
    /// [`StoreError::PinName`], [`StoreError::Closed`], and what the disk says.
    pub fn add(&self, cid: &Cid, mode: PinMode, name: Option<&str>) -> Result<(), StoreError> {
        self.add_all(std::slice::from_ref(cid), mode, name)
    }

    /// Pins many CIDs as [`Pins::add`] does, which costs the disk little more than one.
    ///
    /// # Errors
    /// As [`Pins::add`]; then none of them counts as pinned.
    pub fn add_all(
        &self,
        cids: &[Cid],
        mode: PinMode,
        name: Option<&str>,
    ) -> Result<(), StoreError> {
        let len = name.map_or(0, str::len);
        if len > PIN_NAME_LEN_MAX {
            return Err(StoreError::PinName { len, max: PIN_NAME_LEN_MAX });
        }
        let pin = |cid: &Cid| Pin { cid: *cid, mode, name: name.map(str::to_owned) };
        self.change(|state| {
            let mut records = Vec::new();
            for pin in cids.iter().map(pin) {
                match state.pins.get(&pin.cid) {
                    Some(old) if old.mode == PinMode::Recursive && mode == PinMode::Direct => {
                        return Err(StoreError::PinnedRecursively { cid: Box::new(pin.cid) });
                    }
                    Some(old) if *old == pin => {}
                    _ => records.push(Record::Pin(pin)),
                }
            }
            Ok(records)
        })
    }

    /// Removes the pin of a CID and returns it, `None` when there is none; durable when this
    /// returns.
    ///
    /// # Errors
    /// [`StoreError::Closed`], and what the disk says.
    pub fn rm(&self, cid: &Cid) -> Result<Option<Pin>, StoreError> {
        let mut removed = None;
        self.change(|state| {
            removed = state.pins.get(cid).cloned();
            Ok(removed.iter().map(|pin| Record::Unpin(pin.cid)).collect())
        })?;
        Ok(removed)
    }

    /// Returns the pin of a CID.
    pub fn get(&self, cid: &Cid) -> Option<Pin> {
        self.ledger.state.read().pins.get(cid).cloned()
    }

    /// Returns all pins, in the order of their CIDs.
    pub fn list(&self) -> Vec<Pin> {
        self.ledger.state.read().pins.values().cloned().collect()
    }

    /// Returns a receiver that is told a new number after each change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns the number of the last clean stop.
    pub(super) fn generation(&self) -> u64 {
        self.ledger.state.read().generation
    }

    /// Notes a clean stop, the last change that this accepts.
    pub(super) fn close(&self, generation: u64) -> Result<(), StoreError> {
        let mut journal = self.ledger.journal.lock();
        let open = journal.as_mut().ok_or(StoreError::Closed)?;
        self.write(open, vec![Record::CleanStop(generation)])?;
        *journal = None;
        Ok(())
    }

    /// Refuses all changes from now on.
    pub(super) fn stop(&self) {
        *self.ledger.journal.lock() = None;
    }

    /// Makes the changes that `decide` asks for and tells the subscribers.
    fn change(
        &self,
        decide: impl FnOnce(&State) -> Result<Vec<Record>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut journal = self.ledger.journal.lock();
        let journal = journal.as_mut().ok_or(StoreError::Closed)?;
        let records = decide(&self.ledger.state.read())?;
        if !records.is_empty() {
            self.write(journal, records)?;
            self.changes.send_modify(|number| *number += 1);
        }
        Ok(())
    }

    /// Puts records on the disk and then into the state.
    fn write(&self, journal: &mut Journal, records: Vec<Record>) -> Result<(), StoreError> {
        let new = records.iter().map(Record::encode);
        let state = self.ledger.state.read();
        let stale = journal.records.saturating_sub(state.pins.len());
        if journal.in_doubt || stale > STALE_RECORDS_MAX.max(state.pins.len()) {
            let payloads: Vec<_> = state.payloads().into_iter().chain(new).collect();
            drop(state);
            journal.rewrite(&payloads)?;
        } else {
            drop(state);
            journal.append(&new.collect::<Vec<_>>())?;
        }
        let mut state = self.ledger.state.write();
        for record in records {
            state.apply(record);
        }
        Ok(())
    }
}

impl State {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Pin(pin) => drop(self.pins.insert(pin.cid, pin)),
            Record::Unpin(cid) => drop(self.pins.remove(&cid)),
            Record::CleanStop(generation) => self.generation = generation,
        }
    }

    /// Returns the shortest journal that says the same.
    fn payloads(&self) -> Vec<Vec<u8>> {
        let pins = self.pins.values().map(|pin| Record::Pin(pin.clone()).encode());
        pins.chain([Record::CleanStop(self.generation).encode()]).collect()
    }
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Pin(pin) => {
                let cid = pin.cid.to_bytes();
                let mode = u8::from(pin.mode == PinMode::Direct);
                let named = u8::from(pin.name.is_some());
                let cid_len = u8::try_from(cid.len()).unwrap_or(u8::MAX);
                let name = pin.name.as_deref().unwrap_or_default().as_bytes();
                [&[TAG_PIN, mode, named, cid_len], &cid[..], name].concat()
            }
            Self::Unpin(cid) => [&[TAG_UNPIN], &cid.to_bytes()[..]].concat(),
            Self::CleanStop(generation) => {
                [&[TAG_CLEAN_STOP], &generation.to_le_bytes()[..]].concat()
            }
        }
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        match payload {
            [TAG_PIN, mode @ 0..=1, named @ 0..=1, cid_len, rest @ ..] => {
                let (cid, name) = rest.split_at_checked((*cid_len).into())?;
                let mode = if *mode == 0 { PinMode::Recursive } else { PinMode::Direct };
                let name = String::from_utf8(name.to_owned()).ok()?;
                let name = (*named == 1).then_some(name);
                Some(Self::Pin(Pin { cid: cid_from_bytes(cid).ok()?, mode, name }))
            }
            [TAG_UNPIN, cid @ ..] => Some(Self::Unpin(cid_from_bytes(cid).ok()?)),
            [TAG_CLEAN_STOP, generation @ ..] => {
                Some(Self::CleanStop(u64::from_le_bytes(generation.try_into().ok()?)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::block::{Block, codecs};
    use crate::store::faults::{Call, FaultyDisk};

    fn cid(n: u32) -> Cid {
        *Block::hash_v0(Bytes::copy_from_slice(&n.to_le_bytes())).unwrap().cid()
    }

    struct Fixture {
        dir: tempfile::TempDir,
        disk: Arc<FaultyDisk>,
    }

    impl Fixture {
        fn new() -> Self {
            let fixture =
                Self { dir: tempfile::tempdir().unwrap(), disk: Arc::new(FaultyDisk::default()) };
            Pins::init(&fixture.path(), Arc::clone(&fixture.disk) as _).unwrap();
            fixture
        }

        fn path(&self) -> std::path::PathBuf {
            self.dir.path().join("journal")
        }

        fn open(&self) -> Pins {
            Pins::open(&self.path(), Arc::clone(&self.disk) as _).unwrap()
        }
    }

    #[test]
    fn pins_outlive_the_process() {
        let fixture = Fixture::new();
        let pins = fixture.open();
        pins.add(&cid(1), PinMode::Recursive, None).unwrap();
        pins.add(&cid(2), PinMode::Direct, Some("two")).unwrap();
        let v1 = Cid::new_v1(codecs::DAG_PB, *cid(2).hash());
        pins.add(&v1, PinMode::Recursive, Some("")).unwrap();
        assert_eq!(pins.rm(&cid(1)).unwrap().unwrap().mode, PinMode::Recursive);
        assert_eq!(pins.rm(&cid(1)).unwrap(), None);
        let listed = pins.list();
        assert_eq!(listed.len(), 2, "a CIDv0 and a CIDv1 are two pins");
        let again = fixture.open();
        assert_eq!(again.list(), listed);
        assert_eq!(again.get(&cid(2)).unwrap().name.as_deref(), Some("two"));
        assert_eq!(again.get(&v1).unwrap().name.as_deref(), Some(""));
    }

    #[test]
    fn modes_and_names_follow_the_rules() {
        let pins = Fixture::new().open();
        pins.add(&cid(1), PinMode::Direct, None).unwrap();
        pins.add(&cid(1), PinMode::Recursive, None).unwrap();
        let refused = pins.add(&cid(1), PinMode::Direct, None).unwrap_err();
        assert!(matches!(refused, StoreError::PinnedRecursively { .. }));
        let long = "n".repeat(PIN_NAME_LEN_MAX + 1);
        assert!(pins.add(&cid(1), PinMode::Recursive, Some(&long)).is_err());
        pins.add(&cid(1), PinMode::Recursive, Some(&long[1..])).unwrap();
    }

    #[test]
    fn subscribers_hear_of_changes_and_of_nothing_else() {
        let pins = Fixture::new().open();
        let mut changes = pins.subscribe();
        pins.add(&cid(1), PinMode::Recursive, None).unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        pins.add(&cid(1), PinMode::Recursive, None).unwrap();
        pins.rm(&cid(2)).unwrap();
        assert!(!changes.has_changed().unwrap());
    }

    #[test]
    fn a_failed_write_or_sync_is_an_error_and_the_next_change_is_whole() {
        for call in [Call::Write, Call::Sync] {
            let fixture = Fixture::new();
            let pins = fixture.open();
            pins.add(&cid(1), PinMode::Recursive, None).unwrap();
            fixture.disk.fail(call, 0, nix::libc::EIO);
            assert!(pins.add(&cid(2), PinMode::Recursive, None).is_err());
            assert_eq!(pins.get(&cid(2)), None, "{call:?}: not acknowledged");
            pins.add(&cid(3), PinMode::Recursive, None).unwrap();
            let listed = pins.list();
            assert_eq!(listed.len(), 2);
            assert_eq!(fixture.open().list(), listed, "{call:?}");
        }
    }

    #[test]
    fn many_pins_share_a_sync_and_are_pinned_all_or_none() {
        let cids: Vec<_> = (0..200).map(cid).collect();
        let fixture = Fixture::new();
        let pins = fixture.open();
        // Each takes 38 bytes and a frame, so they need three writes.
        fixture.disk.fail(Call::Sync, 2, nix::libc::EIO);
        assert!(pins.add_all(&cids, PinMode::Recursive, None).is_err());
        assert_eq!(pins.list(), []);
        pins.add_all(&cids[..3], PinMode::Recursive, Some("some")).unwrap();
        assert_eq!(fixture.open().list(), pins.list());

        fixture.disk.fail(Call::Sync, 3, nix::libc::EIO);
        pins.add_all(&cids, PinMode::Recursive, None).unwrap();
        assert_eq!(pins.list().len(), 200);
        fixture.disk.heal();
        assert_eq!(fixture.open().list(), pins.list());
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let fixture = Fixture::new();
        let pins = fixture.open();
        fixture.disk.fail(Call::Write, 0, nix::libc::ENOSPC);
        let full = pins.add(&cid(2), PinMode::Recursive, None).unwrap_err();
        assert!(matches!(full, StoreError::Full { .. }), "{full}");
    }

    #[test]
    fn the_journal_does_not_grow_with_changes() {
        let fixture = Fixture::new();
        let pins = fixture.open();
        for n in 0..1500 {
            pins.add(&cid(7), PinMode::Recursive, Some(&n.to_string())).unwrap();
        }
        let len = std::fs::metadata(fixture.path()).unwrap().len();
        assert!(len < 80_000, "{len} bytes");
        assert_eq!(fixture.open().get(&cid(7)).unwrap().name.as_deref(), Some("1499"));
    }

    #[test]
    fn a_closed_ledger_refuses_changes() {
        let fixture = Fixture::new();
        let pins = fixture.open();
        pins.close(5).unwrap();
        assert!(matches!(pins.rm(&cid(1)), Err(StoreError::Closed)));
        assert!(matches!(pins.add(&cid(1), PinMode::Direct, None), Err(StoreError::Closed)));
        assert_eq!(fixture.open().generation(), 5);
    }
}
