//! Memory that long blocks are read into, used again and again.
//!
//! The idea: a fresh MiB costs a page fault for every 4 KiB and is zeroed, together a seventh of
//! an import; a buffer that nobody reads any more comes back here instead of going to the
//! allocator. What is short does not pass through here: it lies in the allocator's warm memory.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Shorter buffers are the allocator's.
const LEN_MIN: usize = 64 * 1024;
/// Lengths are rounded up to a multiple of this, so that buffers fit blocks of about the same length.
const GRAIN: usize = 16 * 1024;
/// A buffer may be longer than what is read into it by one of so many parts: a block keeps all of it.
const SLACK_PARTS: usize = 4;
const _: () = assert!(GRAIN <= LEN_MIN / SLACK_PARTS, "a buffer fits its own length again");

/// Buffers that nobody uses at the moment, up to so many bytes; clones share them.
#[derive(Debug, Clone)]
pub struct Buffers {
    idle: Arc<Mutex<Idle>>,
}

#[derive(Debug)]
struct Idle {
    /// The one that came back last, which may still be in the processor's caches, is the last.
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
    bytes_max: usize,
}

impl Buffers {
    /// Returns an empty set that keeps at most so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        let idle = Idle { buffers: VecDeque::new(), bytes: 0, bytes_max };
        Self { idle: Arc::new(Mutex::new(idle)) }
    }

    /// Returns a buffer of `len` bytes, which have old content.
    pub fn take(&self, len: usize) -> Buffer {
        if len < LEN_MIN {
            return Buffer { data: vec![0; len], home: None };
        }
        let reused = self.idle.lock().take(len);
        let mut data = reused.unwrap_or_else(|| vec![0; len.next_multiple_of(GRAIN)]);
        data.resize(len, 0);
        Buffer { data, home: Some(self.clone()) }
    }

    /// Returns `len` bytes that `fill` has written; it must write all, for it finds old content.
    ///
    /// # Errors
    /// What `fill` says.
    pub fn filled<E>(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        let mut buffer = self.take(len);
        fill(&mut buffer)?;
        Ok(buffer.into_bytes())
    }
}

impl Idle {
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let fits = |data: &Vec<u8>| (len..=len + len / SLACK_PARTS).contains(&data.capacity());
        let place = self.buffers.iter().rposition(fits)?;
        let data = self.buffers.remove(place)?;
        self.bytes -= data.capacity();
        Some(data)
    }

    /// Takes a buffer back; returns those for which there is no room, to be freed by who has no lock.
    fn give(&mut self, data: Vec<u8>) -> Vec<Vec<u8>> {
        if data.capacity() > self.bytes_max {
            return vec![data];
        }
        self.bytes += data.capacity();
        self.buffers.push_back(data);
        let mut freed = Vec::new();
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.buffers.pop_front()
        {
            self.bytes -= oldest.capacity();
            freed.push(oldest);
        }
        freed
    }
}

/// Bytes that go back when their last reader is done.
#[derive(Debug)]
pub struct Buffer {
    data: Vec<u8>,
    /// Where they go back to; a short one is the allocator's.
    home: Option<Buffers>,
}

impl Buffer {
    /// Returns what was written, to be shared.
    pub fn into_bytes(mut self) -> Bytes {
        match self.home {
            None => Bytes::from(std::mem::take(&mut self.data)),
            Some(_) => Bytes::from_owner(self),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let freed = home.idle.lock().give(std::mem::take(&mut self.data));
            drop(freed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const LEN: usize = 2 * LEN_MIN;

    fn filled(buffers: &Buffers, len: usize, byte: u8) -> Bytes {
        let fill = |data: &mut [u8]| {
            data.fill(byte);
            Ok::<_, io::Error>(())
        };
        buffers.filled(len, fill).unwrap()
    }

    fn idle(buffers: &Buffers) -> (usize, usize) {
        let idle = buffers.idle.lock();
        assert_eq!(idle.bytes, idle.buffers.iter().map(Vec::capacity).sum::<usize>());
        (idle.buffers.len(), idle.bytes)
    }

    #[test]
    fn a_buffer_comes_back_only_when_its_last_slice_is_gone() {
        let buffers = Buffers::new(10 * LEN);
        let mut first = filled(&buffers, LEN, 1);
        let address = first.as_ptr();
        let slice = first.split_off(60);
        drop(first);
        let second = filled(&buffers, LEN, 2);
        assert_eq!((slice[0], second[0]), (1, 2));
        drop(slice);
        let third = filled(&buffers, LEN - 10, 3);
        assert_eq!((third.as_ptr(), &third[..]), (address, &vec![3; LEN - 10][..]));
        drop(third);
        assert_eq!(filled(&buffers, LEN, 4).as_ptr(), address, "it grows up to what it was");
    }

    #[test]
    fn what_is_short_or_much_shorter_has_memory_of_its_own() {
        let buffers = Buffers::new(10 * LEN);
        drop(filled(&buffers, LEN_MIN - 1, 1));
        assert_eq!(idle(&buffers), (0, 0));
        drop(filled(&buffers, LEN, 1));
        let shorter = filled(&buffers, LEN_MIN + 1, 1);
        assert_eq!(idle(&buffers), (1, LEN));
        drop(shorter);
        assert_eq!(idle(&buffers).0, 2);
    }

    #[test]
    fn a_failed_read_keeps_the_buffer_and_the_oldest_go_first() {
        let buffers = Buffers::new(3 * LEN);
        let failed = buffers.filled(LEN, |_| Err(io::ErrorKind::UnexpectedEof));
        assert_eq!((failed.unwrap_err(), idle(&buffers)), (io::ErrorKind::UnexpectedEof, (1, LEN)));
        drop((0..5).map(|_| filled(&buffers, LEN, 1)).collect::<Vec<_>>());
        assert_eq!(idle(&buffers), (3, 3 * LEN));
        drop(filled(&buffers, 4 * LEN, 1));
        assert_eq!(idle(&buffers), (3, 3 * LEN), "one that is longer than the bound");
    }
}
