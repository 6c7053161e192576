//! Disks that fail on command, for tests.

mod image;

use std::fs::File;
use std::io::{self, IoSlice};

use parking_lot::Mutex;

pub use self::image::{Fault, ImageDisk};
use super::diskio::{DiskIo, RealDisk};

/// A call that a [`FaultyDisk`] can refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Writing: half of the bytes get to the file first.
    Write,
    /// Syncing: nothing is known about what was written since the last one.
    Sync,
}

#[derive(Debug)]
struct Planned {
    call: Call,
    after: usize,
    errno: i32,
}

/// The real disk, until a fault that was planned comes due.
#[derive(Debug, Default)]
pub struct FaultyDisk {
    planned: Mutex<Option<Planned>>,
}

impl FaultyDisk {
    /// Plans one failure with `errno`, after `after` more calls of this kind that succeed.
    pub fn fail(&self, call: Call, after: usize, errno: i32) {
        *self.planned.lock() = Some(Planned { call, after, errno });
    }

    /// Forgets the failure that was planned.
    pub fn heal(&self) {
        *self.planned.lock() = None;
    }

    fn due(&self, call: Call) -> Option<io::Error> {
        let mut planned = self.planned.lock();
        let fault = planned.as_mut().filter(|fault| fault.call == call)?;
        match fault.after.checked_sub(1) {
            Some(after) => {
                fault.after = after;
                None
            }
            None => planned.take().map(|fault| io::Error::from_raw_os_error(fault.errno)),
        }
    }
}

impl DiskIo for FaultyDisk {
    fn write(&self, file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let Some(error) = self.due(Call::Write) else {
            return RealDisk.write(file, slices, offset);
        };
        let whole: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        RealDisk.write(file, &[IoSlice::new(&whole[..whole.len() / 2])], offset)?;
        Err(error)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.due(Call::Sync).map_or_else(|| RealDisk.sync(file), Err)
    }
}
