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

/// Returns the length of the first chunk of `data`; `16 <= min < avg < max`.
pub(super) fn cut(data: &[u8], min: usize, avg: usize, max: usize) -> usize {
    let data = &data[..data.len().min(max)];
    if data.len() <= min {
        return data.len();
    }
    let mask = (1 << avg.ilog2()) - 1;
    // Each chunk starts over with a window of zeros into which a 1 was pushed; the 1 leaves with
    // the last byte of the first full window.
    let start = min - WINDOW;
    let mut digest = append(0, 1);
    for &byte in &data[start..min - 1] {
        digest = append(digest, byte);
    }
    digest = append(digest ^ OUT[1], data[min - 1]);
    let mut len = min;
    for (&leaving, &entering) in data[start..].iter().zip(&data[min..]) {
        if digest & mask == 0 {
            break;
        }
        digest = append(digest ^ OUT[usize::from(leaving)], entering);
        len += 1;
    }
    len
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
        for (min, avg, max) in [(16, 17, 18), (16, 64, 300), (100, 256, 1000), (5000, 9000, 90_000)]
        {
            let mut rest = &data[..];
            while !rest.is_empty() {
                let len = cut(rest, min, avg, max);
                assert_eq!(len, cut_by_the_letter(rest, min, avg, max));
                rest = &rest[len..];
            }
        }
    }
}
