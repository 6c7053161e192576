//! MurmurHash3-x64-128, its first half: the hash of HAMT directories (spec 03 §5).

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// Returns the first 64 bits of the hash of `data` with seed 0.
///
/// A HAMT takes its buckets from the most significant bit down.
pub(super) fn murmur3_x64_64(data: &[u8]) -> u64 {
    let (mut h1, mut h2) = (0_u64, 0_u64);
    let mut blocks = data.chunks_exact(16);
    for block in &mut blocks {
        let (k1, k2) = halves(block);
        h1 ^= mix1(k1);
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= mix2(k2);
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut tail = [0; 16];
    let rest = blocks.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    let (k1, k2) = halves(&tail);
    h1 ^= mix1(k1);
    h2 ^= mix2(k2);
    let len = data.len() as u64;
    h1 ^= len;
    h2 ^= len;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

fn halves(block: &[u8]) -> (u64, u64) {
    let word =
        |bytes: &[u8]| bytes.iter().rev().fold(0, |word: u64, &byte| word << 8 | u64::from(byte));
    (word(&block[..8]), word(&block[8..]))
}

fn mix1(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix2(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finish(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ h >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        let check = |name: &str, hash| assert_eq!(murmur3_x64_64(name.as_bytes()), hash, "{name}");
        check("470.txt", 0x006e_88df_5847_e67c);
        check("742.txt", 0x00ff_87d1_29ae_5428);
        check("a", 0x8555_5565_f659_7889);
        check("hello.txt", 0xdf19_ab11_5239_94d9);
        check("1.txt", 0x07c1_8282_5cb4_47e1);
    }
}
