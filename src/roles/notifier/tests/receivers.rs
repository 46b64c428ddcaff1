//! Who is told in the tests of the notifier: a double of a mail server, and real servers of webhooks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tidemill_pipelines::Blame;
use tidemill_sinks::notice::{Message, NoticeError, Notifier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A test double of a mail server: it counts what it took, and answers as it is told.
#[derive(Default)]
pub struct DoubleOfMail {
    answers: Mutex<Vec<Answer>>,
    /// For whom it panics, and how often still.
    panics: Mutex<HashMap<&'static str, u32>>,
    tries: AtomicUsize,
    taken: Mutex<Vec<(String, String)>>,
}

/// How it answers.
pub enum Answer {
    Error(NoticeError),
    Silence,
    Taken,
}

impl DoubleOfMail {
    /// The next answers, the last one first.
    pub fn answers(&self, answers: Vec<Answer>) {
        *self.answers.lock().unwrap() = answers;
    }

    pub fn panics_for(&self, address: &'static str, times: u32) {
        self.panics.lock().unwrap().insert(address, times);
    }

    pub fn tries(&self) -> usize {
        self.tries.load(Ordering::SeqCst)
    }

    pub fn taken(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    /// How many mails about this job were taken.
    pub fn of(&self, job: &str) -> usize {
        self.taken.lock().unwrap().iter().filter(|(about, _)| about == job).count()
    }

    /// Subject and text of the last mail.
    pub fn last(&self) -> String {
        self.taken.lock().unwrap().last().map(|(_, text)| text.clone()).unwrap_or_default()
    }
}

#[async_trait]
impl Notifier for DoubleOfMail {
    async fn send(&self, message: &Message) -> Result<(), NoticeError> {
        let Message::Mail(mail) = message else { panic!("no mail") };
        self.tries.fetch_add(1, Ordering::SeqCst);
        let panics = self.panics.lock().unwrap().get_mut(mail.to.to_string().as_str()).is_some_and(|times| {
            let panics = *times > 0;
            *times = times.saturating_sub(1);
            panics
        });
        assert!(!panics, "the double of a mail server panics, as it was told");
        let answer = self.answers.lock().unwrap().pop();
        match answer {
            Some(Answer::Error(error)) => return Err(error),
            Some(Answer::Silence) => std::future::pending().await,
            Some(Answer::Taken) | None => {}
        }
        let text = format!("{}\n{}", mail.subject, mail.text);
        self.taken.lock().unwrap().push((mail.job_id.clone(), text));
        Ok(())
    }

    async fn ping(&self) -> Result<(), NoticeError> {
        Ok(())
    }
}

/// A server of webhooks that takes connections and requests, and says nothing, or 204.
pub struct Receiver {
    pub url: String,
    /// As they came, head and body.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    pub async fn dead() -> Self {
        Self::with(None).await
    }

    pub async fn taking() -> Self {
        Self::with(Some("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")).await
    }

    async fn with(answer: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let heard = Arc::clone(&heard);
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    while !is_whole(&bytes) && stream.read_buf(&mut bytes).await.unwrap_or(0) > 0 {}
                    heard.lock().unwrap().push(String::from_utf8(bytes).unwrap());
                    match answer {
                        Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                        None => std::future::pending().await,
                    }
                });
            }
        });
        Self { url, requests }
    }

    pub fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// The body of the first request.
    pub fn body(&self) -> String {
        self.requests.lock().unwrap()[0].split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// The lines of all requests with the id of their delivery.
    pub fn deliveries(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let lines = requests.iter().flat_map(|request| request.lines());
        lines
            .filter(|line| line.to_lowercase().starts_with("tidemill-delivery:"))
            .map(str::to_owned)
            .collect()
    }
}

/// Whether a request has come with its body.
fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

pub fn away() -> NoticeError {
    NoticeError::Unavailable { action: "send".into(), message: "away".into(), retry_after: None }
}

pub fn refused() -> NoticeError {
    let (by, what, message) = ("mx".into(), "ana".into(), "no such user".into());
    NoticeError::Refused { by, what, message, blame: Blame::Author }
}
