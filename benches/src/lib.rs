//! tidemill-benches
