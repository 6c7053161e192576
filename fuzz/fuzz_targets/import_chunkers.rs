//! Chunkers: what parses says the same again, and its pieces are the data, none outside its limits.
//!
//! The first line of the input is a chunker, the next byte says how long the data are, and the rest
//! is repeated to make them.
#![no_main]

use cidfs::unixfs::import::{CHUNK_LEN_MAX, Chunker};
use libfuzzer_sys::fuzz_target;

/// The shortest chunk that buzhash may cut, in bytes, like the longest part of the format.
const BUZHASH_MIN: usize = 128 * 1024;
/// The longest chunk of buzhash in bytes.
const BUZHASH_MAX: usize = 512 * 1024;
/// Data in bytes of one input in sixteen: enough that buzhash and the default of rabin must cut.
const DATA_LEN_MAX: usize = 600 * 1024;
/// Data in bytes beyond the shortest chunk, where the others look for a cut.
const DATA_LEN_USUAL: usize = 8 * 1024;

fuzz_target!(|data: &[u8]| {
    let Some(end) = data.iter().position(|&byte| byte == b'\n') else { return };
    let Ok(text) = std::str::from_utf8(&data[..end]) else { return };
    let Ok(chunker) = text.parse::<Chunker>() else { return };
    assert_eq!(chunker.to_string().parse(), Ok(chunker));
    let (min, max) = limits(&chunker);
    assert!(min >= 1 && min <= max && max <= CHUNK_LEN_MAX);
    assert_eq!(chunker.len_max(), max);

    let Some((choice, seed @ [_, ..])) = data[end + 1..].split_first() else { return };
    let len =
        if choice % 16 == 0 { DATA_LEN_MAX } else { (min + DATA_LEN_USUAL).min(DATA_LEN_MAX) };
    let content = seed.repeat(len / seed.len());
    let mut rest = &content[..];
    while !rest.is_empty() {
        let cut = chunker.cut(rest);
        assert!((1..=max).contains(&cut));
        assert!(cut >= min || cut == rest.len(), "a short chunk is the last");
        // What comes after the longest chunk plays no part.
        assert_eq!(chunker.cut(&rest[..rest.len().min(max)]), cut);
        rest = &rest[cut..];
    }
    assert_eq!(chunker.cut(rest), 0);
});

/// The lengths of the shortest and the longest chunk.
fn limits(chunker: &Chunker) -> (usize, usize) {
    match *chunker {
        Chunker::Size(len) => (len, len),
        Chunker::Rabin { min, max, .. } => (min, max),
        Chunker::Buzhash => (BUZHASH_MIN, BUZHASH_MAX),
    }
}
