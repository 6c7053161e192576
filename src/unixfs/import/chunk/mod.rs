//! Where files are cut (spec 03 §6): fixed sizes, Rabin fingerprints, buzhash.
//!
//! A [`Chunker`] is a pure function from bytes to the length of the first chunk; [`Segments`]
//! feeds it from a reader. Cutting depends on the content alone, never on how reads come in.

mod buzhash;
mod rabin;

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use bytes::Bytes;

/// Longest chunk in bytes: 2 MiB less 256 bytes for the framing of dag-pb leaves, kubo's limit.
pub const CHUNK_LEN_MAX: usize = 2_096_896;
/// Average chunk in bytes of `rabin` without numbers, kubo's.
const RABIN_AVG_DEFAULT: usize = 262_144;
/// Shortest `rabin` chunk in bytes: its window.
const RABIN_MIN: usize = rabin::WINDOW;
/// Bytes read at once: large against the rest of a content-defined chunk that is carried over
/// (a copy), small against the memory that an import may take.
const SEGMENT_LEN: usize = 4 * 1024 * 1024;

/// Why text or numbers are no chunker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chunker \"{text}\": {reason}")]
pub struct ChunkerError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A rule for cutting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunker {
    /// Chunks of so many bytes.
    Size(usize),
    /// Rabin fingerprints; lengths in bytes.
    Rabin {
        /// Shortest chunk.
        min: usize,
        /// Wanted average, rounded down to a power of two.
        avg: usize,
        /// Longest chunk.
        max: usize,
    },
    /// Buzhash with kubo's fixed limits (128 KiB to 512 KiB).
    Buzhash,
}

impl Chunker {
    /// Returns the length in bytes of the longest chunk.
    pub fn len_max(&self) -> usize {
        match *self {
            Self::Size(len) => len,
            Self::Rabin { max, .. } => max,
            Self::Buzhash => buzhash::LEN_MAX,
        }
    }

    /// Returns the length of the first chunk of `data`, which holds everything up to the end of
    /// the file or at least [`Chunker::len_max`] bytes; 0 only when `data` is empty.
    pub fn cut(&self, data: &[u8]) -> usize {
        match *self {
            Self::Size(len) => data.len().min(len),
            Self::Rabin { min, avg, max } => rabin::cut(data, min, avg, max),
            Self::Buzhash => buzhash::cut(data),
        }
    }

    /// Checks the limits of spec 03 §6.
    ///
    /// # Errors
    /// [`ChunkerError`] names the limit.
    pub fn check(&self) -> Result<(), ChunkerError> {
        let reason = match *self {
            Self::Size(0) => "the size is at least 1",
            Self::Rabin { min, .. } if min < RABIN_MIN => "the shortest chunk is at least 16",
            Self::Rabin { min, avg, max } if min >= avg || avg >= max => {
                "the numbers are min-avg-max, each larger than the one before"
            }
            _ if self.len_max() > CHUNK_LEN_MAX => "a chunk has at most 2096896 bytes",
            _ => return Ok(()),
        };
        Err(ChunkerError { text: self.to_string(), reason })
    }
}

impl fmt::Display for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(len) => write!(f, "size-{len}"),
            Self::Rabin { min, avg, max } => write!(f, "rabin-{min}-{avg}-{max}"),
            Self::Buzhash => f.write_str("buzhash"),
        }
    }
}

impl FromStr for Chunker {
    type Err = ChunkerError;

    /// Parses kubo's forms: `size-N`, `rabin`, `rabin-N`, `rabin-min-avg-max`, `buzhash`.
    fn from_str(text: &str) -> Result<Self, ChunkerError> {
        let error = |reason| ChunkerError { text: text.chars().take(80).collect(), reason };
        let number = |digits: &str| match digits.parse::<usize>() {
            Ok(number) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
            _ => Err(error("a length is a whole number of bytes, like size-1048576")),
        };
        let labelled = |part: &str, label: &str| number(part.strip_prefix(label).unwrap_or(part));
        let parts: Vec<&str> = text.split('-').collect();
        let chunker = match parts[..] {
            ["size", len] => Self::Size(number(len)?),
            ["buzhash"] => Self::Buzhash,
            ["rabin"] => Self::rabin_of_average(RABIN_AVG_DEFAULT),
            ["rabin", avg] => Self::rabin_of_average(number(avg)?),
            ["rabin", min, avg, max] => Self::Rabin {
                min: labelled(min, "min:")?,
                avg: labelled(avg, "avg:")?,
                max: labelled(max, "max:")?,
            },
            _ => {
                return Err(error("use size-N, rabin, rabin-AVG, rabin-MIN-AVG-MAX or buzhash"));
            }
        };
        chunker.check().map_err(|ChunkerError { reason, .. }| error(reason))?;
        Ok(chunker)
    }
}

impl Chunker {
    fn rabin_of_average(avg: usize) -> Self {
        Self::Rabin { min: avg / 3, avg, max: avg.saturating_add(avg / 2) }
    }
}

/// Cuts what a reader delivers, without copying more than a rest of a chunk between reads.
#[derive(Debug)]
pub(super) struct Segments<R> {
    reader: R,
    chunker: Chunker,
    rest: Bytes,
    ended: bool,
}

impl<R: Read> Segments<R> {
    pub(super) fn new(reader: R, chunker: Chunker) -> Self {
        Self { reader, chunker, rest: Bytes::new(), ended: false }
    }

    /// Returns the next chunks, together about `batch_len` bytes and at least one; none at the
    /// end.
    pub(super) fn next_batch(&mut self, batch_len: usize) -> io::Result<Vec<Bytes>> {
        let mut batch = Vec::new();
        let mut len = 0;
        while len < batch_len {
            if !self.ended && self.rest.len() < self.chunker.len_max() {
                if !batch.is_empty() {
                    break;
                }
                self.fill()?;
            }
            let cut = self.chunker.cut(&self.rest);
            if cut == 0 {
                break;
            }
            batch.push(self.rest.split_to(cut));
            len += cut;
        }
        Ok(batch)
    }

    fn fill(&mut self) -> io::Result<()> {
        // Whole chunks of a fixed size leave no rest to carry over.
        let target = match self.chunker {
            Chunker::Size(len) => len * (SEGMENT_LEN / len).max(1),
            Chunker::Rabin { .. } | Chunker::Buzhash => SEGMENT_LEN,
        };
        let mut segment = Vec::with_capacity(target);
        segment.extend_from_slice(&self.rest);
        let missing = target - segment.len();
        let read = (&mut self.reader).take(missing as u64).read_to_end(&mut segment)?;
        self.ended = read < missing;
        self.rest = segment.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubo_forms_parse() {
        let check = |text: &str, chunker| assert_eq!(text.parse(), Ok(chunker), "{text}");
        check("size-1", Chunker::Size(1));
        check("size-2096896", Chunker::Size(CHUNK_LEN_MAX));
        check("buzhash", Chunker::Buzhash);
        check("rabin", Chunker::Rabin { min: 87_381, avg: 262_144, max: 393_216 });
        check("rabin-48", Chunker::Rabin { min: 16, avg: 48, max: 72 });
        let own = Chunker::Rabin { min: 16, avg: 100, max: 2_096_896 };
        check("rabin-16-100-2096896", own);
        check("rabin-min:16-avg:100-max:2096896", own);
        assert_eq!(own.to_string().parse(), Ok(own));
    }

    #[test]
    fn other_forms_are_refused() {
        for bad in [
            "",
            "size",
            "size-",
            "size-0",
            "size-2096897",
            "size--1",
            "size-+5",
            "size-1k",
            "size-99999999999999999999",
            "rabin-",
            "rabin-15-100-200",
            "rabin-16-16-200",
            "rabin-16-200-200",
            "rabin-16-100-2096897",
            "rabin-1-2",
            "rabin-47",
            "rabin-1397932",
            "buzhash-5",
            "fixed-5",
        ] {
            assert!(bad.parse::<Chunker>().is_err(), "{bad}");
        }
    }

    /// Gives one byte at each call.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let len = out.len().min(1);
            self.0.read(&mut out[..len])
        }
    }

    fn lens(reader: impl Read, chunker: Chunker, batch_len: usize) -> Vec<usize> {
        let mut segments = Segments::new(reader, chunker);
        let mut lens = Vec::new();
        loop {
            let batch = segments.next_batch(batch_len).unwrap();
            if batch.is_empty() {
                return lens;
            }
            lens.extend(batch.iter().map(Bytes::len));
        }
    }

    #[test]
    fn cuts_do_not_depend_on_reads_or_batches() {
        let data: Vec<u8> =
            (0..SEGMENT_LEN + 700_000).map(|at| ((at * at) >> 7).to_le_bytes()[0]).collect();
        for text in ["size-1000", "size-1048576", "rabin-5000", "rabin", "buzhash"] {
            let chunker: Chunker = text.parse().unwrap();
            let whole = lens(&data[..], chunker, 1 << 20);
            assert_eq!(whole.iter().sum::<usize>(), data.len());
            assert_eq!(lens(&data[..], chunker, 1), whole, "{text}");
            let mut rest = &data[..];
            let mut direct = Vec::new();
            while !rest.is_empty() {
                let cut = chunker.cut(rest);
                direct.push(cut);
                rest = &rest[cut..];
            }
            assert_eq!(direct, whole, "{text}");
        }
        let chunker = Chunker::Size(7);
        assert_eq!(lens(Dribble(&data[..100]), chunker, 20), lens(&data[..100], chunker, 20));
        assert!(lens(&[][..], Chunker::Buzhash, 1).is_empty());
    }
}
