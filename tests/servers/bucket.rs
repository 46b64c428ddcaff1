//! The bucket of the S3 server that `tests/servers` starts, for tests of every crate.

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::prefix::PrefixStore;

/// A folder of the bucket.
pub fn folder(prefix: impl Into<object_store::path::Path>) -> PrefixStore<AmazonS3> {
    let variable =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; see CONTRIBUTING.md"));
    let bucket = AmazonS3Builder::new()
        .with_endpoint(variable("TIDEMILL_TEST_S3_URL"))
        .with_bucket_name(variable("TIDEMILL_TEST_S3_BUCKET"))
        .with_access_key_id(variable("TIDEMILL_TEST_S3_KEY"))
        .with_secret_access_key(variable("TIDEMILL_TEST_S3_SECRET"))
        .with_region("us-east-1")
        .with_allow_http(true)
        .build()
        .unwrap();
    PrefixStore::new(bucket, prefix)
}
