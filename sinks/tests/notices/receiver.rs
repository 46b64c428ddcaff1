//! A small HTTP server for webhooks: it answers every request with the same bytes, or not at all.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A request as it came.
pub struct Request {
    /// Request line and headers.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// The server; it ends with the test's runtime.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    requests: mpsc::Receiver<Request>,
}

impl Receiver {
    /// Answers each request with these bytes and closes; `None` holds the connection open without a word.
    pub async fn answering(answer: Option<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), sender.clone()));
            }
        });
        Self { address, requests }
    }

    /// Answers with a status line, headers as given (each with its CRLF) and no body.
    pub async fn with_status(status: &str, headers: &str) -> Self {
        let answer = format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\n\r\n");
        Self::answering(Some(answer.into_bytes())).await
    }

    /// A URL of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next request that came, if one did.
    pub fn request(&mut self) -> Option<Request> {
        self.requests.try_recv().ok()
    }
}

async fn serve(mut stream: TcpStream, answer: Option<Vec<u8>>, sender: mpsc::Sender<Request>) {
    let mut bytes = Vec::new();
    let end = loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut request = Request { head, body: bytes[end + 4..].to_vec() };
    let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    while request.body.len() < length {
        if stream.read_buf(&mut request.body).await.unwrap_or(0) == 0 {
            return;
        }
    }
    sender.send(request).await.ok();
    match answer {
        Some(answer) => {
            stream.write_all(&answer).await.ok();
            stream.shutdown().await.ok();
        }
        None => std::future::pending().await,
    }
}
