//! The journal: any file opens or is refused with a reason, and from then on changes last.
//!
//! The first byte says what the rest is: the file, what follows its header, or the payloads of whole
//! records.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use cidfs::block::{Cid, cid_from_text};
use cidfs::store::{Pin, PinMode, Pins, RealDisk, StoreError};
use libfuzzer_sys::fuzz_target;

mod scratch;

/// A CID that no input is likely to pin.
const OTHER: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
/// Bytes of a record in front of its payload.
const FRAME_LEN: usize = 8;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| scratch::dir("journal"));

fuzz_target!(|data: &[u8]| {
    let Some((&form, rest)) = data.split_first() else { return };
    let file = match form % 4 {
        0 => rest.to_vec(),
        1 => [header(), rest.to_vec()].concat(),
        _ => records(rest),
    };
    scratch::empty(&DIR);
    let path = DIR.join("journal");
    std::fs::write(&path, &file).expect("room for a file");
    let pins = match open() {
        Ok(pins) => pins,
        Err(StoreError::Version { .. } | StoreError::NoJournal { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    // A second open finds the same, also after a repair.
    let found = pins.list();
    assert_eq!(open().expect("it was repaired").list(), found);
    check_changes(&pins, found);
});

fn open() -> Result<Pins, StoreError> {
    Pins::open(&DIR.join("journal"), Arc::new(RealDisk))
}

/// A pin that is added or removed stays so, and the others with it.
fn check_changes(pins: &Pins, mut found: Vec<Pin>) {
    let other: Cid = cid_from_text(OTHER).expect("a CID");
    if pins.get(&other).is_none() {
        pins.add(&other, PinMode::Direct, Some("name")).expect("nothing is in its way");
        let after = open().expect("it was written");
        assert!(after.get(&other).is_some_and(|pin| pin.name.as_deref() == Some("name")));
        assert_eq!(after.list().len(), found.len() + 1);
    } else {
        found.retain(|pin| pin.cid != other);
    }
    pins.rm(&other).expect("it can be removed");
    assert_eq!(open().expect("it was written").list(), found);
}

fn header() -> Vec<u8> {
    let front = [&b"cidfsjnl"[..], &1_u32.to_le_bytes()].concat();
    [&front[..], &crc32fast::hash(&front).to_le_bytes()].concat()
}

/// Returns a file of whole records; each payload has its length in front.
fn records(mut data: &[u8]) -> Vec<u8> {
    let mut file = header();
    while let Some((&len, rest)) = data.split_first() {
        let (payload, rest) = rest.split_at(rest.len().min(len.into()));
        let len = u16::from(len).min(payload.len() as u16).to_le_bytes();
        file.reserve(FRAME_LEN + payload.len());
        file.extend_from_slice(&[0xc1, 0xdf]);
        file.extend_from_slice(&len);
        file.extend_from_slice(&crc32fast::hash(&[&len, payload].concat()).to_le_bytes());
        file.extend_from_slice(payload);
        data = rest;
    }
    file
}
