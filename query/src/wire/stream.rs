//! The connection's bytes: messages in, answers out, each with its bound of time and size.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use pgwire::messages::PgWireBackendMessage;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use super::frames::{self, Broken, Message, Opening};

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 8 << 10;
/// Answers are sent when so many bytes of them are there.
const FLUSH_BYTES: usize = 64 << 10;

/// A socket, plain or in TLS.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// A socket of either kind.
pub(super) type Stream = Box<dyn Socket>;

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// Where messages come from.
pub(super) struct Reader {
    socket: ReadHalf<Stream>,
    buffer: BytesMut,
    bytes_max: usize,
}

/// Where answers go.
pub(super) struct Writer {
    socket: WriteHalf<Stream>,
    buffer: BytesMut,
    stall_max: Duration,
}

/// Both ends of a socket. `bytes_max` bounds a message, `stall_max` the wait for a client that takes no answers.
pub(super) fn split(socket: Stream, bytes_max: usize, stall_max: Duration) -> (Reader, Writer) {
    let (read, write) = tokio::io::split(socket);
    (
        Reader { socket: read, buffer: BytesMut::new(), bytes_max },
        Writer { socket: write, buffer: BytesMut::new(), stall_max },
    )
}

/// The first message of a connection, `None` when it was closed before. Takes not one byte more: what follows
/// a request for TLS in the open must not be taken for a part of the protected talk.
pub(super) async fn opening(socket: &mut Stream) -> Result<Option<Opening>, ReadError> {
    let mut buffer = BytesMut::new();
    loop {
        if let Some(opening) = frames::opening(&mut buffer)? {
            return Ok(Some(opening));
        }
        let wanted = match buffer.first_chunk::<4>() {
            None => 4,
            Some(length) => u32::from_be_bytes(*length) as usize,
        };
        if (&mut *socket).take((wanted - buffer.len()) as u64).read_buf(&mut buffer).await? == 0 {
            return Ok(None);
        }
    }
}

impl Reader {
    /// Allows longer messages, once it is known who talks.
    pub(super) fn allow(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// The next message, `None` at the end. Nothing is lost when the wait for it is given up.
    pub(super) async fn message(&mut self) -> Result<Option<Message>, ReadError> {
        loop {
            if let Some(message) = frames::message(&mut self.buffer, self.bytes_max)? {
                return Ok(Some(message));
            }
            self.buffer.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Throws away what still comes, until the end.
    pub(super) async fn discard(&mut self) {
        loop {
            self.buffer.clear();
            self.buffer.reserve(READ_BYTES);
            if !matches!(self.socket.read_buf(&mut self.buffer).await, Ok(1..)) {
                return;
            }
        }
    }

    /// Ends when the client has gone. What it sends meanwhile is kept, up to the size of one message.
    pub(super) async fn gone(&mut self) {
        while self.buffer.len() < self.bytes_max {
            self.buffer.reserve(READ_BYTES);
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }
}

impl Writer {
    /// Adds a message to what is sent next.
    pub(super) fn put(&mut self, message: PgWireBackendMessage) -> io::Result<()> {
        message.encode(&mut self.buffer).map_err(io::Error::other)
    }

    /// Sends when enough is there to be worth it.
    pub(super) async fn flush_some(&mut self) -> io::Result<()> {
        if self.buffer.len() < FLUSH_BYTES { Ok(()) } else { self.flush().await }
    }

    /// Sends what is there. When it is given up half-way, the next one goes on where this one was.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let send = async {
            while !self.buffer.is_empty() {
                if self.socket.write_buf(&mut self.buffer).await? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            self.socket.flush().await
        };
        tokio::time::timeout(self.stall_max, send).await?
    }

    /// Says farewell to TCP or TLS.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        tokio::time::timeout(self.stall_max, self.socket.shutdown()).await?
    }
}
