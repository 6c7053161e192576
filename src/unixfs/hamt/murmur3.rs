//! murmur3-x64-64: the first half of `MurmurHash3` x64-128 with seed 0, the hash of HAMT names.
//!
//! Written out because it is forty lines that never change, and the formats here want the first
//! half as a number read from its most significant bit (spec 03 §5). Not for content: it is no
//! cryptographic hash, so a stranger can make names collide.

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// Returns the hash of a directory entry's name; level 0 of a HAMT takes its highest bits.
pub fn name_hash(name: &[u8]) -> u64 {
    let (mut h1, mut h2) = (0_u64, 0_u64);
    let (blocks, tail) = name.as_chunks::<16>();
    for block in blocks {
        h1 ^= mix_first(word(&block[..8]));
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= mix_second(word(&block[8..]));
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let (low, high) = tail.split_at(tail.len().min(8));
    h2 ^= mix_second(word(high));
    h1 ^= mix_first(word(low));
    h1 ^= name.len() as u64;
    h2 ^= name.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

/// Reads at most 8 bytes as a little-endian number.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

fn mix_first(word: u64) -> u64 {
    word.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix_second(word: u64) -> u64 {
    word.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finish(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::name_hash;

    #[test]
    fn the_vectors_of_the_spec() {
        let check = |name: &str, hash: u64| {
            assert_eq!(
                name_hash(name.as_bytes()),
                hash,
                "{name}: {:016x}",
                name_hash(name.as_bytes())
            );
        };
        check("470.txt", 0x006e_88df_5847_e67c);
        check("742.txt", 0x00ff_87d1_29ae_5428);
        check("a", 0x8555_5565_f659_7889);
        check("hello.txt", 0xdf19_ab11_5239_94d9);
        check("1.txt", 0x07c1_8282_5cb4_47e1);
        check("", 0);
    }
}
