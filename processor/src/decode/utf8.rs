//! Knows which bytes of a window are UTF-8, looking at each byte about once. Called by `reading`.

/// The state of a walk over a window, record by record.
pub(super) struct Utf8<'a> {
    bytes: &'a [u8],
    /// All bytes before are UTF-8, but for records told to be broken.
    valid_to: usize,
}

impl<'a> Utf8<'a> {
    /// Checks the window up to its first broken byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Utf8 { bytes, valid_to: valid_to(bytes) }
    }

    /// Whether a record is UTF-8; records are asked for in order.
    #[inline]
    pub fn holds(&mut self, start: usize, end: usize) -> bool {
        if end <= self.valid_to {
            return true;
        }
        if start > self.valid_to {
            // The broken byte lies in an earlier record: from here to the next broken one.
            self.valid_to = start + valid_to(&self.bytes[start..]);
        }
        end <= self.valid_to
    }
}

fn valid_to(bytes: &[u8]) -> usize {
    simdutf8::compat::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), |_| bytes.len())
}
