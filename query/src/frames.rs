//! Frames between a worker and its parent, over the worker's stdin and stdout: length (four bytes, big endian), kind
//! (one byte), payload. The parent sends `Places` once and then one `Run` or `Describe` at a time.

use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits::FRAME_BYTES_MAX;
use crate::{Error, Result};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To the worker: where the data is, and its limits.
    Places,
    /// To the worker: a statement to answer.
    Run,
    /// To the worker: a statement to describe.
    Describe,
    /// From the worker: the columns, as an Arrow IPC stream without batches.
    Schema,
    /// From the worker: bytes of the answer.
    Chunk,
    /// From the worker: the types of parameters, as a schema.
    Parameters,
    /// From the worker: the answer is whole.
    End,
    /// From the worker: an [`Error`] as JSON; the worker takes the next statement.
    Failed,
}

const KINDS: [(u8, Kind); 8] = [
    (b'p', Kind::Places),
    (b'r', Kind::Run),
    (b'd', Kind::Describe),
    (b'S', Kind::Schema),
    (b'C', Kind::Chunk),
    (b'P', Kind::Parameters),
    (b'E', Kind::End),
    (b'F', Kind::Failed),
];

const HEAD_BYTES: usize = 5;

fn head(kind: Kind, payload: &[u8]) -> io::Result<[u8; HEAD_BYTES]> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length as usize <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a frame is too long"))?;
    let letter = KINDS.iter().find(|(_, known)| *known == kind).map_or(0, |(letter, _)| *letter);
    let [a, b, c, d] = length.to_be_bytes();
    Ok([a, b, c, d, letter])
}

fn parse_head(head: [u8; HEAD_BYTES]) -> io::Result<(Kind, usize)> {
    let [a, b, c, d, letter] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let kind = KINDS.iter().find(|(known, _)| *known == letter).map(|(_, kind)| *kind);
    match kind {
        Some(kind) if length <= FRAME_BYTES_MAX => Ok((kind, length)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "this is no frame")),
    }
}

/// Sends one frame, on the parent's side.
pub(crate) async fn send(to: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: &[u8]) -> io::Result<()> {
    to.write_all(&head(kind, payload)?).await?;
    to.write_all(payload).await?;
    to.flush().await
}

/// Takes one frame, on the parent's side.
pub(crate) async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Kind, Bytes)> {
    let mut head = [0; HEAD_BYTES];
    from.read_exact(&mut head).await?;
    let (kind, length) = parse_head(head)?;
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Ok((kind, payload.into()))
}

/// Sends one frame, on the worker's side.
pub(crate) fn write(to: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    to.write_all(&head(kind, payload)?)?;
    to.write_all(payload)?;
    to.flush()
}

/// Takes one frame, on the worker's side.
pub(crate) fn read(from: &mut impl Read) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; HEAD_BYTES];
    from.read_exact(&mut head)?;
    let (kind, length) = parse_head(head)?;
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok((kind, payload))
}

/// A value as payload.
pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::Worker { message: error.to_string() })
}

/// A payload as value.
pub(crate) fn from_json<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
    serde_json::from_slice(payload).map_err(|error| Error::Worker { message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_comes_out_as_it_went_in_on_both_sides() {
        let mut pipe = Vec::new();
        write(&mut pipe, Kind::Chunk, b"rows").unwrap();
        send(&mut pipe, Kind::End, b"").await.unwrap();
        let mut reader = pipe.as_slice();
        assert_eq!(receive(&mut reader).await.unwrap(), (Kind::Chunk, Bytes::from_static(b"rows")));
        assert_eq!(read(&mut reader).unwrap(), (Kind::End, Vec::new()));
        read(&mut reader).unwrap_err();
    }

    #[test]
    fn what_is_no_frame_is_refused_before_memory_is_taken_for_it() {
        for head in [[0, 0, 0, 1, b'?'], [0xff, 0xff, 0xff, 0xff, b'C']] {
            read(&mut head.as_slice()).unwrap_err();
        }
    }
}
