//! The compression function of SHA-256 over two messages at once.
//!
//! A round of the processor's SHA instructions waits for the one before it, which leaves their unit
//! idle half of the time; the rounds of a second message fill the gaps. Two blocks hashed side by
//! side take little more time than one. What has no such instructions hashes one after the other.

#![allow(
    unsafe_code,
    reason = "a function with other instructions than every processor has is unsafe to call"
)]

use sha2::block_api::compress256;

/// The state of a hash between two blocks of the message.
pub type State = [u32; 8];

/// Takes `messages`, which have the same length, into their `states`.
///
/// # Panics
/// When the lengths differ.
pub fn compress_both(states: &mut [State; 2], messages: [&[[u8; 64]]; 2]) {
    assert_eq!(messages[0].len(), messages[1].len(), "messages of one length");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") {
        // SAFETY: the processor has the instructions that the function is compiled for.
        unsafe { interleaved::compress(states, messages) };
        return;
    }
    for (state, message) in states.iter_mut().zip(messages) {
        compress256(state, message);
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::many_single_char_names, reason = "FIPS 180-4 calls the words of a state a to h")]
mod interleaved {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi32,
    };

    use super::State;

    /// Constants of the 64 rounds, four of them for each step (FIPS 180-4, 4.2.2).
    const ROUNDS: [[u32; 4]; 16] = [
        [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
        [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
        [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
        [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
        [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
        [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
        [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
        [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
        [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
        [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
        [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
        [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
        [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
        [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
        [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
        [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
    ];

    /// A state in the order of the instructions: a, b, e, f and c, d, g, h.
    #[derive(Clone, Copy)]
    struct Registers {
        abef: __m128i,
        cdgh: __m128i,
    }

    /// Sixteen words of the message schedule.
    type Words = [__m128i; 4];

    #[target_feature(enable = "sha,sse4.1")]
    pub(super) fn compress(states: &mut [State; 2], messages: [&[[u8; 64]]; 2]) {
        let mut hashes = [load(&states[0]), load(&states[1])];
        for (first, second) in messages[0].iter().zip(messages[1]) {
            let before = hashes;
            let mut words = [words(first), words(second)];
            step::<0>(0, &mut hashes, &mut words);
            step::<1>(1, &mut hashes, &mut words);
            step::<2>(2, &mut hashes, &mut words);
            step::<3>(3, &mut hashes, &mut words);
            for next in [4, 8, 12] {
                scheduled_step::<0>(next, &mut hashes, &mut words);
                scheduled_step::<1>(next + 1, &mut hashes, &mut words);
                scheduled_step::<2>(next + 2, &mut hashes, &mut words);
                scheduled_step::<3>(next + 3, &mut hashes, &mut words);
            }
            for (hash, before) in hashes.iter_mut().zip(before) {
                hash.abef = _mm_add_epi32(hash.abef, before.abef);
                hash.cdgh = _mm_add_epi32(hash.cdgh, before.cdgh);
            }
        }
        *states = [store(hashes[0]), store(hashes[1])];
    }

    /// Four rounds of both messages with words `PLACE` of the schedule.
    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn step<const PLACE: usize>(
        number: usize,
        hashes: &mut [Registers; 2],
        words: &mut [Words; 2],
    ) {
        let constants = four(ROUNDS[number]);
        for (hash, words) in hashes.iter_mut().zip(words) {
            let sum = _mm_add_epi32(words[PLACE], constants);
            hash.cdgh = _mm_sha256rnds2_epu32(hash.cdgh, hash.abef, sum);
            let sum = _mm_shuffle_epi32::<0b00_00_11_10>(sum);
            hash.abef = _mm_sha256rnds2_epu32(hash.abef, hash.cdgh, sum);
        }
    }

    /// As [`step`], after making these words of the sixteen before them.
    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn scheduled_step<const PLACE: usize>(
        number: usize,
        hashes: &mut [Registers; 2],
        words: &mut [Words; 2],
    ) {
        for words in words.iter_mut() {
            let [old, next] = [words[PLACE], words[(PLACE + 1) % 4]];
            let [late, last] = [words[(PLACE + 2) % 4], words[(PLACE + 3) % 4]];
            let sum =
                _mm_add_epi32(_mm_sha256msg1_epu32(old, next), _mm_alignr_epi8::<4>(last, late));
            words[PLACE] = _mm_sha256msg2_epu32(sum, last);
        }
        step::<PLACE>(number, hashes, words);
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn words(block: &[u8; 64]) -> Words {
        let word = |at: usize| {
            u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
        };
        let words = |at: usize| [word(at), word(at + 4), word(at + 8), word(at + 12)];
        [four(words(0)), four(words(16)), four(words(32)), four(words(48))]
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn load([a, b, c, d, e, f, g, h]: &State) -> Registers {
        Registers { abef: four([*f, *e, *b, *a]), cdgh: four([*h, *g, *d, *c]) }
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn store(Registers { abef, cdgh }: Registers) -> State {
        let ([f, e, b, a], [h, g, d, c]) = (lanes(abef), lanes(cdgh));
        [a, b, c, d, e, f, g, h]
    }

    /// Returns four numbers in one register, the first one lowest.
    #[inline]
    #[target_feature(enable = "sse4.1")]
    fn four(numbers: [u32; 4]) -> __m128i {
        let [a, b, c, d] = numbers.map(u32::cast_signed);
        _mm_set_epi32(d, c, b, a)
    }

    #[inline]
    #[target_feature(enable = "sse4.1")]
    fn lanes(register: __m128i) -> [u32; 4] {
        [
            _mm_extract_epi32::<0>(register),
            _mm_extract_epi32::<1>(register),
            _mm_extract_epi32::<2>(register),
            _mm_extract_epi32::<3>(register),
        ]
        .map(i32::cast_unsigned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_hashed_as_each_alone() {
        let content: Vec<u8> = (0..=250).cycle().take(64 * 100).collect();
        let (blocks, _) = content.as_chunks::<64>();
        for count in [0, 1, 2, 50] {
            let messages = [&blocks[..count], &blocks[50..50 + count]];
            let mut states = [[1, 2, 3, 4, 5, 6, 7, 8], [u32::MAX; 8]];
            let mut expected = states;
            compress_both(&mut states, messages);
            for (state, message) in expected.iter_mut().zip(messages) {
                compress256(state, message);
            }
            assert_eq!(states, expected, "{count} blocks");
        }
    }
}
