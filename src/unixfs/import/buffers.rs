//! Memory that big files are read into, used again and again.
//!
//! The idea: a fresh MiB costs a page fault for every 4 KiB and is zeroed, together a seventh of
//! an import; a buffer whose blocks are stored comes back here instead of going to the
//! allocator. Small files do not pass through here: theirs lie in the allocator's warm memory.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::workers::JOBS_IN_FLIGHT_MAX;

/// Buffers kept for later: one for each job of a big file; its last blocks, which wait for the
/// store, may hold one or two more.
const IDLE_MAX: usize = JOBS_IN_FLIGHT_MAX;

/// Buffers that nobody uses at the moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers {
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    /// Returns `len` bytes that `fill` has written; it must write all, for it finds old content.
    pub(super) fn filled<E>(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        let data = self.idle.lock().pop().unwrap_or_default();
        let mut lent = Lent { data, home: self.clone() };
        lent.data.resize(len, 0);
        fill(&mut lent.data)?;
        Ok(Bytes::from_owner(lent))
    }
}

/// A buffer that goes back when its last reader is done.
struct Lent {
    data: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut idle = self.home.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn filled(buffers: &Buffers, len: usize, byte: u8) -> Bytes {
        let fill = |data: &mut [u8]| {
            data.fill(byte);
            Ok::<_, io::Error>(())
        };
        buffers.filled(len, fill).unwrap()
    }

    #[test]
    fn a_buffer_comes_back_only_when_its_last_slice_is_gone() {
        let buffers = Buffers::default();
        let mut first = filled(&buffers, 100, 1);
        let address = first.as_ptr();
        let slice = first.split_off(60);
        drop(first);
        let second = filled(&buffers, 100, 2);
        assert_eq!((&slice[..], &second[..]), (&[1; 40][..], &[2; 100][..]));
        drop(slice);
        let third = filled(&buffers, 70, 3);
        assert_eq!((third.as_ptr(), &third[..]), (address, &[3; 70][..]));
    }

    #[test]
    fn a_failed_read_keeps_the_buffer_and_the_number_is_bounded() {
        let buffers = Buffers::default();
        let failed = buffers.filled(10, |_| Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(
            (failed.unwrap_err(), buffers.idle.lock().len()),
            (io::ErrorKind::UnexpectedEof, 1)
        );
        drop((0..=2 * IDLE_MAX).map(|_| filled(&buffers, 10, 1)).collect::<Vec<_>>());
        assert_eq!(buffers.idle.lock().len(), IDLE_MAX);
    }
}
