//! Rabin fingerprints as kubo cuts (spec 03 §6): a polynomial over GF(2), a window of 16 bytes.

/// Bytes under the fingerprint.
pub(super) const WINDOW: usize = 16;
/// Part of the format: another polynomial cuts elsewhere.
const POLYNOMIAL: u64 = 0x3D_F305_DFB2_A805;
const DEGREE: u32 = POLYNOMIAL.ilog2();
/// The fingerprint's bits above this one select the reduction.
const SHIFT: u32 = DEGREE - 8;

/// What a byte leaving the window takes away from the fingerprint.
const OUT: [u64; 256] = out_table();
/// What brings a fingerprint that grew by a byte back under the polynomial's degree.
const MOD: [u64; 256] = mod_table();

/// Stretches that are searched side by side. One search waits for a table at each byte; four
/// that do not wait for each other take little longer than one.
const LANES: usize = 4;
/// Bytes of a stretch: many against the window that each begins with.
const STRETCH: usize = 512;
/// Wanted average in bytes from which searching past the cut costs less than it gains.
const LANES_AVG_MIN: usize = 16 * LANES * STRETCH;

/// Returns the length of the first chunk of `data`; `16 <= min < avg < max`.
///
/// From the shortest chunk on the window is full, so the fingerprint depends on the last 16 bytes
/// alone and not on where the chunk began.
pub(super) fn cut(data: &[u8], min: usize, avg: usize, max: usize) -> usize {
    let data = &data[..data.len().min(max)];
    if data.len() <= min {
        return data.len();
    }
    let mask = (1 << avg.ilog2()) - 1;
    let mut from = min;
    if avg >= LANES_AVG_MIN {
        while from + LANES * STRETCH <= data.len() {
            if let Some(len) = first_of_lanes(data, from, mask) {
                return len;
            }
            from += LANES * STRETCH;
        }
    }
    first(data, from, mask)
}

/// Returns the first length from `from` on at which the fingerprint says cut, else the end.
fn first(data: &[u8], from: usize, mask: u64) -> usize {
    let start = from - WINDOW;
    let mut digest = fingerprint(&data[start..from]);
    let mut len = from;
    for (&leaving, &entering) in data[start..].iter().zip(&data[from..]) {
        if digest & mask == 0 {
            break;
        }
        digest = roll(digest, leaving, entering);
        len += 1;
    }
    len
}

/// Returns the first length in the next `LANES * STRETCH` at which the fingerprint says cut.
fn first_of_lanes(data: &[u8], from: usize, mask: u64) -> Option<usize> {
    let starts: [usize; LANES] = std::array::from_fn(|lane| from + lane * STRETCH);
    let mut digests = starts.map(|start| fingerprint(&data[start - WINDOW..start]));
    let leaving = starts.map(|start| &data[start - WINDOW..][..STRETCH]);
    let entering = starts.map(|start| &data[start..][..STRETCH]);
    let mut found = None;
    for at in 0..STRETCH {
        for lane in 0..LANES {
            if digests[lane] & mask == 0 {
                let len = starts[lane] + at;
                found = Some(found.map_or(len, |before: usize| before.min(len)));
            }
            digests[lane] = roll(digests[lane], leaving[lane][at], entering[lane][at]);
        }
    }
    found
}

fn fingerprint(window: &[u8]) -> u64 {
    window.iter().fold(0, |digest, &byte| append(digest, byte))
}

fn roll(digest: u64, leaving: u8, entering: u8) -> u64 {
    append(digest ^ OUT[usize::from(leaving)], entering)
}

fn append(digest: u64, byte: u8) -> u64 {
    // The index is below 256: a reduced fingerprint has DEGREE bits.
    (digest << 8 | u64::from(byte)) ^ MOD[(digest >> SHIFT) as usize & 0xff]
}

/// All that is ever reduced has at most 8 bits more than the polynomial.
const fn reduce(mut value: u64) -> u64 {
    while value >> DEGREE != 0 {
        value ^= POLYNOMIAL << (value.ilog2() - DEGREE);
    }
    value
}

const fn out_table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut digest = reduce(byte as u64);
        let mut zeros = 0;
        while zeros < WINDOW - 1 {
            digest = reduce(digest << 8);
            zeros += 1;
        }
        table[byte] = digest;
        byte += 1;
    }
    table
}

const fn mod_table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let high = (byte as u64) << DEGREE;
        table[byte] = reduce(high) | high;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same rule, written as the specification states it.
    fn cut_by_the_letter(data: &[u8], min: usize, avg: usize, max: usize) -> usize {
        let mask = (1 << avg.ilog2()) - 1;
        let (mut window, mut at, mut digest) = ([0_u8; WINDOW], 0, 0_u64);
        let mut step = |byte: u8| {
            digest ^= OUT[usize::from(window[at])];
            window[at] = byte;
            at = (at + 1) % WINDOW;
            let index = digest >> 45;
            digest = digest << 8 | u64::from(byte);
            digest ^= MOD[index as usize];
            digest
        };
        step(1);
        for n in min - WINDOW + 1..=data.len() {
            let digest = step(data[n - 1]);
            if n >= min && (digest & mask == 0 || n >= max) {
                return n;
            }
        }
        data.len()
    }

    #[test]
    fn the_fast_loop_is_the_rule() {
        let mut state = 1_u64;
        let data: Vec<u8> = (0..200_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        for (min, avg, max) in [
            (16, 17, 18),
            (16, 64, 300),
            (100, 256, 1000),
            (5000, 9000, 90_000),
            (16, 40_000, 150_000),
        ] {
            let mut rest = &data[..];
            while !rest.is_empty() {
                let len = cut(rest, min, avg, max);
                assert_eq!(len, cut_by_the_letter(rest, min, avg, max));
                rest = &rest[len..];
            }
        }
    }
}
