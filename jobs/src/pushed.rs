//! What stands for the bytes of objects that were pushed to the store past the gateway.

use sha2::{Digest, Sha256};

/// What the keys of pushed objects begin with.
pub const PUSHED_PREFIX: &str = "pushed/";

/// SHA-256 over keys, sizes in bytes and ETags, in the order in which the objects are read. A signed URL is good for a
/// while after its job was made, so whoever reads the objects takes it again and compares.
#[derive(Debug, Clone, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds the next object; `etag` as the store tells it.
    pub fn add(&mut self, key: &str, size_bytes: u64, etag: Option<&str>) {
        self.0.update(format!("{key} {size_bytes} {etag:?}\n"));
    }

    /// 64 hex digits.
    pub fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}
