//! The messages of clients: read whole, of bounded size, into [`Message`]. Pure; `stream.rs` feeds it bytes.
//!
//! Promise: no bytes whatever make it panic; what does not follow the protocol is [`Broken`]. The layouts are those of
//! PostgreSQL's manual, "Message Formats". What the server sends is encoded by pgwire.

use bytes::{Buf, Bytes, BytesMut};

/// Longest message before the login is done, as in PostgreSQL.
const STARTUP_BYTES_MAX: usize = 10_000;
/// Codes that stand where a startup message has the protocol's version.
const CANCEL: i32 = 80_877_102;
const TLS: i32 = 80_877_103;
const GSS: i32 = 80_877_104;

/// Bytes that do not follow the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("a message of {0} bytes is longer than the {1} allowed here")]
    TooLong(usize, usize),
    #[error("a message of type {0:?} is not known here")]
    Unknown(char),
    #[error("a message of type {0:?} ends early or goes on too long")]
    Malformed(char),
}

/// What a client may open a connection with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Tls,
    Gss,
    Cancel { process: i32, key: Bytes },
    Startup { minor: u16, parameters: Vec<(String, String)> },
}

/// What a client says afterwards.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Password(Bytes),
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe {
        target: Target,
        name: String,
    },
    Execute {
        portal: String,
        rows_max: usize,
    },
    Close {
        target: Target,
        name: String,
    },
    Flush,
    Sync,
    Terminate,
    /// Part of a COPY; a server that has just refused one passes it over.
    Copy,
}

/// Values for the parameters of a prepared statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) portal: String,
    pub(super) statement: String,
    /// None: all are texts; one: all are so; else one each. 1 is binary.
    pub(super) formats: Vec<i16>,
    pub(super) values: Vec<Option<Bytes>>,
    pub(super) result_formats: Vec<i16>,
}

/// What Describe and Close speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Statement,
    Portal,
}

/// Takes the opening message off the buffer; `None` when it is not whole yet.
pub(super) fn opening(buffer: &mut BytesMut) -> Result<Option<Opening>, Broken> {
    let Some(length) = length_at(buffer, 0) else { return Ok(None) };
    let broken = || Broken::Malformed(' ');
    if !(8..=STARTUP_BYTES_MAX).contains(&length) {
        return Err(Broken::TooLong(length, STARTUP_BYTES_MAX));
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let mut body = Body(buffer.split_to(length).freeze());
    body.0.advance(4);
    let code = body.i32().ok_or_else(broken)?;
    match code {
        TLS => Ok(Some(Opening::Tls)),
        GSS => Ok(Some(Opening::Gss)),
        CANCEL => {
            let process = body.i32().ok_or_else(broken)?;
            Ok(Some(Opening::Cancel { process, key: body.0 }))
        }
        _ if code >> 16 == 3 => {
            let parameters = parameters(&mut body).ok_or_else(broken)?;
            Ok(Some(Opening::Startup { minor: (code & 0xffff) as u16, parameters }))
        }
        _ => Err(broken()),
    }
}

fn parameters(body: &mut Body) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    loop {
        let name = body.text()?;
        if name.is_empty() {
            return Some(found);
        }
        found.push((name, body.text()?));
    }
}

/// Takes the next message off the buffer; `None` when it is not whole yet.
pub(super) fn message(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Message>, Broken> {
    let (Some(kind), Some(length)) = (buffer.first().copied(), length_at(buffer, 1)) else {
        return Ok(None);
    };
    if length > bytes_max {
        return Err(Broken::TooLong(length, bytes_max));
    }
    if length < 4 {
        return Err(Broken::Malformed(char::from(kind)));
    }
    if buffer.len() <= length {
        return Ok(None);
    }
    let mut body = Body(buffer.split_to(length + 1).freeze());
    body.0.advance(5);
    let message = read(kind, &mut body)?;
    match message {
        Some(message) if body.0.is_empty() => Ok(Some(message)),
        _ => Err(Broken::Malformed(char::from(kind))),
    }
}

fn read(kind: u8, body: &mut Body) -> Result<Option<Message>, Broken> {
    Ok(match kind {
        b'p' => Some(Message::Password(body.rest())),
        b'Q' => body.text().map(Message::Query),
        b'P' => parse(body),
        b'B' => bind(body).map(Message::Bind),
        b'D' => target(body).map(|(target, name)| Message::Describe { target, name }),
        b'C' => target(body).map(|(target, name)| Message::Close { target, name }),
        b'E' => execute(body),
        b'H' => Some(Message::Flush),
        b'S' => Some(Message::Sync),
        b'X' => Some(Message::Terminate),
        b'd' | b'c' | b'f' => {
            body.rest();
            Some(Message::Copy)
        }
        _ => return Err(Broken::Unknown(char::from(kind))),
    })
}

fn parse(body: &mut Body) -> Option<Message> {
    let (name, sql) = (body.text()?, body.text()?);
    let types = body.list(|body| body.i32().map(|oid| oid as u32))?;
    Some(Message::Parse { name, sql, types })
}

fn bind(body: &mut Body) -> Option<Bind> {
    Some(Bind {
        portal: body.text()?,
        statement: body.text()?,
        formats: body.list(Body::i16)?,
        values: body.list(|body| match usize::try_from(body.i32()?) {
            Ok(length) => body.take(length).map(Some),
            Err(_) => Some(None),
        })?,
        result_formats: body.list(Body::i16)?,
    })
}

fn target(body: &mut Body) -> Option<(Target, String)> {
    let target = match body.take(1)?.first()? {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        _ => return None,
    };
    Some((target, body.text()?))
}

fn execute(body: &mut Body) -> Option<Message> {
    let portal = body.text()?;
    // Zero, and what PostgreSQL takes for it, means all.
    let rows_max = usize::try_from(body.i32()?).ok().filter(|rows| *rows > 0).unwrap_or(usize::MAX);
    Some(Message::Execute { portal, rows_max })
}

fn length_at(buffer: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; 4] = buffer.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes) as usize)
}

/// The rest of a message, read with care.
struct Body(Bytes);

impl Body {
    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.0)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?[..].try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?[..].try_into().ok()?))
    }

    /// A text that ends with a zero byte.
    fn text(&mut self) -> Option<String> {
        let length = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(length)?;
        self.0.advance(1);
        String::from_utf8(text.into()).ok()
    }

    /// A count of two bytes, then as many items. Nothing is set aside for items that are not there.
    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.i16()? as u16;
        (0..count).map(|_| item(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(kind: u8, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::from(&[kind][..]);
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn one(kind: u8, body: &[u8]) -> Result<Option<Message>, Broken> {
        message(&mut framed(kind, body), 1000)
    }

    #[test]
    fn each_message_is_read() {
        assert_eq!(one(b'Q', b"SELECT 1\0"), Ok(Some(Message::Query("SELECT 1".into()))));
        let parse = Message::Parse { name: "a".into(), sql: "b".into(), types: vec![20] };
        assert_eq!(one(b'P', b"a\0b\0\0\x01\0\0\0\x14"), Ok(Some(parse)));
        let bind = Bind {
            portal: String::new(),
            statement: "a".into(),
            formats: vec![1],
            values: vec![None, Some(Bytes::from_static(b"xy"))],
            result_formats: vec![],
        };
        let body = b"\0a\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x02xy\0\0";
        assert_eq!(one(b'B', body), Ok(Some(Message::Bind(bind))));
        let describe = Message::Describe { target: Target::Portal, name: "p".into() };
        assert_eq!(one(b'D', b"Pp\0"), Ok(Some(describe)));
        let execute = |rows_max| Ok(Some(Message::Execute { portal: String::new(), rows_max }));
        assert_eq!(one(b'E', b"\0\0\0\0\x05"), execute(5));
        assert_eq!(one(b'E', b"\0\0\0\0\0"), execute(usize::MAX));
        assert_eq!(one(b'S', b""), Ok(Some(Message::Sync)));
    }

    #[test]
    fn a_message_in_pieces_is_waited_for() {
        let whole = framed(b'Q', b"SELECT 1\0");
        for length in 0..whole.len() {
            assert_eq!(message(&mut BytesMut::from(&whole[..length]), 1000), Ok(None), "{length}");
        }
        let mut two = whole.clone();
        two.extend_from_slice(&framed(b'S', b""));
        message(&mut two, 1000).unwrap().unwrap();
        assert_eq!(message(&mut two, 1000), Ok(Some(Message::Sync)));
        assert!(two.is_empty());
    }

    #[test]
    fn what_does_not_follow_the_protocol_is_told() {
        assert_eq!(one(b'!', b""), Err(Broken::Unknown('!')));
        for (kind, body) in [
            (b'Q', &b"no end"[..]),
            (b'Q', b"two\0\0"),
            (b'Q', b"\xff\0"),
            (b'P', b"a\0b\0\0\x02\0\0\0\x14"),
            (b'B', b"\0a\0\0\0\0\x01\0\0\xff\xff"),
            (b'D', b"Xp\0"),
            (b'E', b"\0\0"),
        ] {
            assert_eq!(one(kind, body), Err(Broken::Malformed(char::from(kind))), "{body:?}");
        }
        assert_eq!(one(b'Q', &[b'x'; 1000]), Err(Broken::TooLong(1004, 1000)));
        // Refused by its head, before the rest is sent.
        assert_eq!(
            message(&mut BytesMut::from(&b"Q\x7f\xff\xff\xff"[..]), 9),
            Err(Broken::TooLong(0x7fff_ffff, 9))
        );
    }

    #[test]
    fn the_ways_to_open_a_connection_are_told_apart() {
        let open = |body: &[u8]| {
            let mut bytes = BytesMut::from(&(body.len() as u32 + 4).to_be_bytes()[..]);
            bytes.extend_from_slice(body);
            opening(&mut bytes)
        };
        assert_eq!(open(&TLS.to_be_bytes()), Ok(Some(Opening::Tls)));
        let cancel = Opening::Cancel { process: 1, key: Bytes::from_static(&[0, 0, 0, 2]) };
        assert_eq!(open(&[&CANCEL.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0, 0, 2]].concat()), Ok(Some(cancel)));
        let startup = Opening::Startup { minor: 0, parameters: vec![("user".into(), "ann".into())] };
        assert_eq!(open(b"\0\x03\0\0user\0ann\0\0"), Ok(Some(startup)));
        assert_eq!(open(b"\0\x02\0\0user\0ann\0\0"), Err(Broken::Malformed(' ')));
        assert_eq!(open(b"\0\x03\0\0user"), Err(Broken::Malformed(' ')));
        assert!(opening(&mut BytesMut::from(&b"GET / HTTP/1.1\r\n"[..])).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in any::<u8>()) {
            let _ = opening(&mut BytesMut::from(&bytes[..]));
            let _ = message(&mut BytesMut::from(&bytes[..]), 150);
            for kind in [kind, b'P', b'B', b'E', b'D', b'Q'] {
                let _ = one(kind, &bytes);
            }
        }
    }
}
