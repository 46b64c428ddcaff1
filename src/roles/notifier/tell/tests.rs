//! The notifier's promise: done only when taken or refused for good; a stop leaves the event for the next start.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tidemill_sinks::notice::{Addressing, Message, Notifier};

use super::*;

const PIPELINE: &str = "\
pipeline: sales
columns: [{ name: id, type: int64 }]
sinks: [{ table: { name: sales } }]
notify: [{ email: { to: ana@example.org, on: [success, failed] } }]
";

/// Answers with these, one after the other, and then takes everything.
#[derive(Default)]
struct Scripted {
    answers: Mutex<Vec<NoticeError>>,
    tries: AtomicUsize,
    taken: AtomicUsize,
    /// A message for this address is never answered.
    silent_for: Option<&'static str>,
}

#[async_trait]
impl Notifier for Scripted {
    async fn send(&self, message: &Message) -> Result<(), NoticeError> {
        self.tries.fetch_add(1, Ordering::Relaxed);
        if let (Message::Mail(mail), Some(silent)) = (message, self.silent_for)
            && mail.to.to_string() == silent
        {
            std::future::pending::<()>().await;
        }
        let answer = self.answers.lock().unwrap().pop();
        match answer {
            Some(error) => Err(error),
            None => {
                self.taken.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    async fn ping(&self) -> Result<(), NoticeError> {
        Ok(())
    }
}

fn away() -> NoticeError {
    NoticeError::Unavailable { action: "send".into(), message: "away".into(), retry_after: None }
}

fn refused() -> NoticeError {
    NoticeError::Refused {
        by: "mx".into(),
        what: "ana".into(),
        message: "no such user".into(),
        blame: tidemill_pipelines::Blame::Author,
    }
}

fn teller(pipeline: &str, mail: &Arc<Scripted>, places: usize) -> Teller {
    let files = vec![("sales.yaml".to_owned(), pipeline.to_owned())];
    let mail: Arc<dyn Notifier> = Arc::clone(mail) as _;
    Teller {
        pipelines: Arc::new(PipelineSet::from_files(files).unwrap()),
        notifiers: Notifiers { mail: Arc::clone(&mail), webhook: mail, addressing: Addressing::default() },
        places: Semaphore::new(places),
        give_up_after: Duration::from_secs(24 * 3600),
        links: "http://localhost".to_owned(),
        notices: IntCounterVec::new(Opts::new("notices", "Notices."), &["outcome"]).unwrap(),
    }
}

fn scripted(answers: Vec<NoticeError>) -> Arc<Scripted> {
    Arc::new(Scripted { answers: Mutex::new(answers), ..Scripted::default() })
}

fn record(pipeline: &str) -> Record {
    let id = "01a1fe0c-4049-7658-af27-fd7accda2be6";
    let job = serde_json::json!({
        "job_id": id, "pipeline": pipeline, "pipeline_version": "0", "status": "success", "retries": 0,
        "created_at": Utc::now(), "started_at": Utc::now(), "finished_at": Utc::now(),
        "files_to_process": [], "file_name": "a.csv", "size_bytes": 1, "content_sha256": "", "sender": "ana",
        "report_file_path": null, "records_in": 1, "records_written": 1, "records_rejected": 0,
        "records_filtered": 0, "error": null,
    });
    let event = serde_json::json!({
        "specversion": "1.0", "id": "1", "source": "/tidemill/pipelines/sales", "subject": id,
        "time": Utc::now(), "datacontenttype": "application/json",
        "type": "tidemill.finished", "data": { "job": job, "rejects": [] },
    });
    Record { partition: 0, offset: 0, key: id.to_owned(), payload: event.to_string().into_bytes() }
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_done_only_once_it_is_taken() {
    let mail = scripted(vec![away(), away(), away()]);
    let teller = teller(PIPELINE, &mail, 1);
    assert!(teller.tell(&record("sales"), &CancellationToken::new()).await);
    assert_eq!((mail.tries.load(Ordering::Relaxed), mail.taken.load(Ordering::Relaxed)), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_good_is_not_tried_again() {
    let mail = scripted(vec![refused()]);
    let teller = teller(PIPELINE, &mail, 1);
    assert!(teller.tell(&record("sales"), &CancellationToken::new()).await);
    assert_eq!((mail.tries.load(Ordering::Relaxed), mail.taken.load(Ordering::Relaxed)), (1, 0));
    assert_eq!(teller.notices.with_label_values(&["refused"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_away_is_given_up_in_the_end() {
    let mail = scripted(vec![away(); 1_000]);
    let mut teller = teller(PIPELINE, &mail, 1);
    teller.give_up_after = Duration::from_millis(1);
    assert!(teller.tell(&record("sales"), &CancellationToken::new()).await);
    assert_eq!(mail.tries.load(Ordering::Relaxed), 1);
    assert_eq!(teller.notices.with_label_values(&["given_up"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_what_was_not_taken_for_the_next_start() {
    let mail = scripted(vec![away(); 1_000]);
    let teller = teller(PIPELINE, &mail, 1);
    let (record, stop) = (record("sales"), CancellationToken::new());
    let (done, ()) = tokio::join!(teller.tell(&record, &stop), async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        stop.cancel();
    });
    assert!(!done);
    assert_eq!(mail.taken.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_waits_for_another_try_holds_no_place() {
    let mail = scripted(vec![away()]);
    let teller = teller(PIPELINE, &mail, 1);
    let stop = CancellationToken::new();
    let (first, second) = (record("sales"), record("sales"));
    let (first, second) = tokio::join!(teller.tell(&first, &stop), teller.tell(&second, &stop));
    assert!(first && second);
    assert_eq!((mail.tries.load(Ordering::Relaxed), mail.taken.load(Ordering::Relaxed)), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_never_answers_does_not_hold_the_other_notices_of_a_job() {
    let two = PIPELINE.replace("notify: [", "notify: [{ email: { to: slow@example.org, on: [success] } }, ");
    let mail = Arc::new(Scripted { silent_for: Some("slow@example.org"), ..Scripted::default() });
    let teller = teller(&two, &mail, 2);
    let record = record("sales");
    let stop = CancellationToken::new();
    let told = tokio::time::timeout(Duration::from_secs(5), teller.tell(&record, &stop)).await;
    assert!(told.is_err());
    assert_eq!(mail.taken.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_nobody_can_be_told_of_is_done() {
    let mail = scripted(Vec::new());
    let teller = teller(PIPELINE, &mail, 1);
    let stop = CancellationToken::new();
    assert!(teller.tell(&record("unknown_here"), &stop).await);
    let broken = Record { payload: b"{".to_vec(), ..record("sales") };
    assert!(teller.tell(&broken, &stop).await);
    assert_eq!(mail.tries.load(Ordering::Relaxed), 0);
}

#[test]
fn a_webhook_gets_the_links_of_what_was_made() {
    let mut event: serde_json::Value = serde_json::from_slice(&record("sales").payload).unwrap();
    event["data"]["job"]["artifacts"] = serde_json::json!(["talk.mp3"]);
    let event = Event::from_json(event.to_string().as_bytes()).unwrap();
    let (finished, body) = with_links(event, "https://tidemill.example.org").unwrap().unwrap();
    let link = format!("https://tidemill.example.org/v1/jobs/{}/files/talk.mp3", finished.job.job_id);
    assert_eq!(facts(&finished, Utc::now(), "").files, std::slice::from_ref(&link));
    let body: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
    assert_eq!(body["data"]["links"], serde_json::json!([link]));
    let plain = Event::from_json(&record("sales").payload).unwrap();
    assert!(
        with_links(plain, "").unwrap().unwrap().1.is_none(),
        "what made no file is sent as it stands in the log"
    );
}
