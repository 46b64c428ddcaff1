//! Cuts the stream of chunks into windows that depend on the records only, never on the chunks: each window
//! begins at a record and is full, but for the last. So any chunking gives the same batches. Called by `decoder`.

use bytes::{Buf, Bytes};

/// The bytes that no record was made of yet.
pub(super) struct Windows {
    size: usize,
    /// Copied only when a window lies in more than one chunk.
    tail: Vec<u8>,
}

/// Bytes to find records in, and where they came from.
pub(super) struct Window {
    pub bytes: Bytes,
    copied: bool,
}

impl Windows {
    /// Each window is of `size` bytes.
    pub fn new(size: usize) -> Self {
        Windows { size, tail: Vec::new() }
    }

    /// The next full window; `None` when `chunk` is used up.
    pub fn next(&mut self, chunk: &mut Bytes) -> Option<Window> {
        if self.tail.is_empty() && chunk.len() >= self.size {
            return Some(Window { bytes: chunk.slice(..self.size), copied: false });
        }
        if self.tail.capacity() == 0 {
            self.tail.reserve_exact(self.size);
        }
        let wanted = self.size - self.tail.len();
        let part = chunk.split_to(wanted.min(chunk.len()));
        self.tail.extend_from_slice(&part);
        match self.tail.len() == self.size {
            true => Some(Window { bytes: Bytes::from(std::mem::take(&mut self.tail)), copied: true }),
            false => None,
        }
    }

    /// `used` bytes of the window are done; the others come again in the next one.
    pub fn used(&mut self, window: &Window, used: usize, chunk: &mut Bytes) {
        match window.copied {
            true if used < window.bytes.len() => {
                self.tail.reserve_exact(self.size);
                self.tail.extend_from_slice(&window.bytes[used..]);
            }
            true => {}
            false => chunk.advance(used),
        }
    }

    /// What is left when no more chunks come.
    pub fn rest(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.tail))
    }
}
