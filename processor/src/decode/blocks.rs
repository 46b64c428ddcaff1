//! Finds the bytes that mean something to a delimited text, 64 bytes a step: delimiter, quote, line ends, NUL.
//!
//! On x86-64 a step is 16 SSE2 comparisons, elsewhere a plain loop; a test holds the two equal. Called by `scan`.

/// Bytes looked at in one step: one for each bit of the mask.
const BLOCK_BYTES: usize = 64;

/// The bytes that [`Marks`] stops at, beside `\n`, `\r` and NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alphabet {
    pub delimiter: u8,
    /// `\n` when nothing is quoted: it is looked for anyway.
    pub quote: u8,
}

/// Walks over the positions of the marked bytes, in order.
pub(super) struct Marks<'a> {
    bytes: &'a [u8],
    alphabet: Alphabet,
    /// First position of the block that `mask` is of.
    block: usize,
    /// One bit for each marked byte of the block that is still to come.
    mask: u64,
}

impl<'a> Marks<'a> {
    /// Begins at `position`.
    pub fn new(bytes: &'a [u8], alphabet: Alphabet, position: usize) -> Self {
        let mut marks = Marks { bytes, alphabet, block: 0, mask: 0 };
        marks.seek(position);
        marks
    }

    /// Goes on from `position`, which may lie before or behind.
    pub fn seek(&mut self, position: usize) {
        self.block = position;
        self.mask = self.block_mask();
    }

    /// The next marked position.
    #[inline(always)]
    pub fn next(&mut self) -> Option<usize> {
        while self.mask == 0 {
            self.block += BLOCK_BYTES;
            if self.block >= self.bytes.len() {
                self.block = self.bytes.len();
                return None;
            }
            self.mask = self.block_mask();
        }
        let position = self.block + self.mask.trailing_zeros() as usize;
        self.mask &= self.mask - 1;
        Some(position)
    }

    #[inline(always)]
    fn block_mask(&self) -> u64 {
        let rest = self.bytes.get(self.block..).unwrap_or_default();
        match rest.first_chunk() {
            Some(block) => mask(block, self.alphabet),
            None => tail_mask(rest, self.alphabet),
        }
    }
}

/// The mask of the last block, which is shorter than the others.
#[cold]
fn tail_mask(rest: &[u8], alphabet: Alphabet) -> u64 {
    let mut block = [0; BLOCK_BYTES];
    block[..rest.len()].copy_from_slice(rest);
    // The padding is NUL, which is a mark: only bits of real bytes are kept.
    mask(&block, alphabet) & ((1 << rest.len()) - 1)
}

/// One bit for each byte of the block, the first byte lowest: whether it is marked.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[allow(unsafe_code)]
#[inline(always)]
fn mask(block: &[u8; BLOCK_BYTES], alphabet: Alphabet) -> u64 {
    // SAFETY: `sse2` asks for nothing but a processor with SSE2, and this function is compiled only for targets
    // that promise it (every x86-64 does).
    unsafe { sse2(block, alphabet) }
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
use plain as mask;

/// Vectors are loaded through integers, which the compiler turns into the plain unaligned load.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[target_feature(enable = "sse2")]
#[inline]
fn sse2(block: &[u8; BLOCK_BYTES], alphabet: Alphabet) -> u64 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
        _mm_setzero_si128,
    };
    let (halves, _) = block.as_chunks::<8>();
    let load = |i: usize| -> __m128i {
        _mm_set_epi64x(i64::from_le_bytes(halves[2 * i + 1]), i64::from_le_bytes(halves[2 * i]))
    };
    let either = |a: __m128i, b: __m128i| _mm_or_si128(a, b);
    let marked = |i: usize| -> u64 {
        let bytes = load(i);
        let is = |byte: u8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8));
        let ends = either(either(is(b'\n'), is(b'\r')), _mm_cmpeq_epi8(bytes, _mm_setzero_si128()));
        let all = either(either(is(alphabet.delimiter), is(alphabet.quote)), ends);
        u64::from(_mm_movemask_epi8(all) as u32) << (16 * i)
    };
    marked(0) | marked(1) | marked(2) | marked(3)
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
fn plain(block: &[u8; BLOCK_BYTES], alphabet: Alphabet) -> u64 {
    let is_mark =
        |byte: u8| byte == alphabet.delimiter || byte == alphabet.quote || matches!(byte, b'\n' | b'\r' | 0);
    block.iter().rev().fold(0, |mask, &byte| mask << 1 | u64::from(is_mark(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8], alphabet: Alphabet, from: usize) -> Vec<usize> {
        let marks = [alphabet.delimiter, alphabet.quote, b'\n', b'\r', 0];
        (from..bytes.len()).filter(|&i| marks.contains(&bytes[i])).collect()
    }

    fn walk(bytes: &[u8], alphabet: Alphabet, from: usize) -> Vec<usize> {
        let mut marks = Marks::new(bytes, alphabet, from);
        std::iter::from_fn(|| marks.next()).collect()
    }

    proptest! {
        #[test]
        fn the_vector_step_equals_the_plain_step(
            block in prop::array::uniform32(any::<u8>()),
            dense in prop::collection::vec(prop::sample::select(b",\"\n\r\0x\xff".to_vec()), 32),
            delimiter in 0u8..128,
            quote in 0u8..128,
        ) {
            let mut bytes = [0; BLOCK_BYTES];
            bytes[..32].copy_from_slice(&block);
            bytes[32..].copy_from_slice(&dense);
            let alphabet = Alphabet { delimiter, quote };
            prop_assert_eq!(mask(&bytes, alphabet), plain(&bytes, alphabet));
        }

        #[test]
        fn every_mark_is_met_once_and_in_order(
            bytes in prop::collection::vec(prop::sample::select(b",\"\n\r\0abcdefgh".to_vec()), 0..300),
            from in 0usize..300,
        ) {
            let alphabet = Alphabet { delimiter: b',', quote: b'"' };
            let from = from.min(bytes.len());
            prop_assert_eq!(walk(&bytes, alphabet, from), naive(&bytes, alphabet, from));
        }
    }

    #[test]
    fn nothing_is_marked_behind_the_end() {
        let alphabet = Alphabet { delimiter: b',', quote: b'"' };
        assert!(walk(b"", alphabet, 0).is_empty());
        assert!(walk(b"a,b", alphabet, 3).is_empty());
        assert!(walk(&[b'x'; 64], alphabet, 0).is_empty());
    }
}
