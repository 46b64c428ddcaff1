//! Notices on real servers: an SMTP server, HTTP receivers, a folder. What arrives, what is refused, and
//! what is to be tried again.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests fail as tests do

#[path = "notices/mail.rs"]
mod mail;
#[path = "notices/receiver.rs"]
mod receiver;
#[path = "notices/webhook.rs"]
mod webhook;

use std::sync::Arc;

use async_trait::async_trait;
use tidemill_pipelines::{Notice, NoticeOn, NoticeTarget};
use tidemill_sinks::notice::{
    Addressing, Ending, FinishedNotice, Message, NoticeError, Notifier, Notifiers, RejectLine,
};

/// A finished event as a webhook gets it.
const EVENT: &[u8] =
    br#"{"specversion":"1.0","type":"tidemill.finished","data":{"job":{"file_name":"Geh\u00e4lter.csv"}}}"#;

/// Takes nothing: for the way that a test does not use.
struct Nobody;

#[async_trait]
impl Notifier for Nobody {
    async fn send(&self, message: &Message) -> Result<(), NoticeError> {
        panic!("{message:?} went the wrong way")
    }
    async fn ping(&self) -> Result<(), NoticeError> {
        panic!("nobody answers")
    }
}

fn nowhere() -> Notifiers {
    Notifiers { mail: Arc::new(Nobody), webhook: Arc::new(Nobody), addressing: Addressing::default() }
}

fn both_ends(target: NoticeTarget) -> Notice {
    Notice { on: NoticeOn { success: true, failed: true }, target }
}

fn finished(job_id: &str) -> FinishedNotice {
    let reject = |line| RejectLine {
        line,
        column: Some("hired_at".into()),
        code: "bad_timestamp".into(),
        message: "`soon` is no timestamp".into(),
    };
    FinishedNotice {
        job_id: job_id.into(),
        pipeline: "hired_employees".into(),
        status: Ending::Success,
        sender: "ana".into(),
        file_name: Some("staff.csv".into()),
        records_in: 10_000,
        records_written: 8_000,
        records_rejected: 2_000,
        records_filtered: 0,
        files: Vec::new(),
        error: None,
        rejects: vec![reject(3), reject(5)],
        created_at: "2026-11-21T10:00:00Z".parse().unwrap(),
        finished_at: "2026-11-21T10:00:01Z".parse().unwrap(),
        links: "https://tide.example".into(),
    }
}
