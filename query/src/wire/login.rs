//! The beginning of a connection: TLS, the startup message, the login by SCRAM-SHA-256.
//!
//! Promise: who is not known cannot be told from who has another password, and nobody off this machine says a word
//! without TLS.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use pgwire::messages::PgWireBackendMessage as Answer;
use pgwire::messages::response::{GssEncResponse, ReadyForQuery, SslResponse, TransactionStatus};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey,
};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

use super::cancel::Place;
use super::frames::{Message, Opening};
use super::refusal::{Refusal, code};
use super::stream::{self, Stream};
use super::variables::Variables;
use super::{End, Login, Reader, Shared, Writer};
use crate::scram::{Exchange, MECHANISM, Verifier};

/// The one database that there is.
pub(super) const DATABASE: &str = "tidemill";
/// Longest name of a user, as where users are added.
const USER_BYTES_MAX: usize = 190;
/// Requests for TLS and the like before the startup message.
const OPENINGS_MAX: usize = 4;

/// What the startup message says.
pub(super) struct Startup {
    minor: u16,
    parameters: Vec<(String, String)>,
}

/// Opens a connection, in TLS when the client asks for it; `None` when it came to cancel something, or went away.
pub(super) async fn open(
    mut socket: Stream,
    peer: SocketAddr,
    shared: &Shared,
) -> Result<Option<(Stream, Startup)>, End> {
    let mut secure = false;
    for _ in 0..OPENINGS_MAX {
        match stream::opening(&mut socket).await? {
            None => return Ok(None),
            Some(Opening::Cancel { process, key }) => {
                shared.cancels.cancel(process, &key);
                return Ok(None);
            }
            Some(Opening::Gss) => say(&mut socket, Answer::GssEncResponse(GssEncResponse::Refuse)).await?,
            Some(Opening::Tls) => match shared.tls.as_ref().filter(|_| !secure) {
                Some(acceptor) => {
                    say(&mut socket, Answer::SslResponse(SslResponse::Accept)).await?;
                    socket = accept(acceptor, socket).await?;
                    secure = true;
                }
                None => say(&mut socket, Answer::SslResponse(SslResponse::Refuse)).await?,
            },
            Some(Opening::Startup { minor, parameters }) => {
                if !secure && !peer.ip().to_canonical().is_loopback() {
                    let refusal =
                        Refusal::fatal(code::NOT_ALLOWED, "connections from other machines need TLS");
                    shared.metrics().login("refused");
                    say(&mut socket, refusal.hint("connect with sslmode=require").into()).await?;
                    return Ok(None);
                }
                return Ok(Some((socket, Startup { minor, parameters })));
            }
        }
    }
    Ok(None)
}

async fn accept(acceptor: &TlsAcceptor, socket: Stream) -> Result<Stream, End> {
    Ok(Box::new(acceptor.accept(socket).await?))
}

async fn say(socket: &mut Stream, answer: Answer) -> Result<(), End> {
    let mut bytes = bytes::BytesMut::new();
    answer.encode(&mut bytes).map_err(std::io::Error::other)?;
    socket.write_all(&bytes).await?;
    Ok(socket.flush().await?)
}

/// Checks who it is; gives the session's settings, the user's name among them.
pub(super) async fn log_in(
    startup: Startup,
    peer: SocketAddr,
    shared: &Shared,
    reader: &mut Reader,
    writer: &mut Writer,
) -> Result<(Login, Variables), End> {
    let parameter = |name: &str| {
        let found = startup.parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let options: Vec<String> = startup
        .parameters
        .iter()
        .map(|(key, _)| key)
        .filter(|key| key.starts_with("_pq_."))
        .cloned()
        .collect();
    if startup.minor > 0 || !options.is_empty() {
        // 3.0 has all that is spoken here.
        writer.put(Answer::NegotiateProtocolVersion(NegotiateProtocolVersion::new(3 << 16, options)))?;
    }
    let no_user =
        || Refusal::fatal(code::NOT_ALLOWED, "no user name, or one too long, in the startup message");
    let user = parameter("user").filter(|user| user.len() <= USER_BYTES_MAX).ok_or_else(no_user)?;
    if parameter("replication").is_some_and(|value| !["false", "off", "no", "0"].contains(&value)) {
        return Err(Refusal::fatal(code::UNSUPPORTED, "replication is not offered here").into());
    }
    let login = authenticate(user, peer, shared, reader, writer).await?;
    // After the login only: who may not come in learns nothing.
    let database = parameter("database").unwrap_or(user);
    if database != DATABASE && database != "postgres" {
        let message =
            format!("database \"{}\" does not exist", database.chars().take(63).collect::<String>());
        return Err(Refusal::fatal(code::NO_DATABASE, message)
            .hint(format!("the database is \"{DATABASE}\""))
            .into());
    }
    let mut variables = Variables::new(user);
    for (name, value) in &startup.parameters {
        adopt(&mut variables, name, value)?;
    }
    Ok((login, variables))
}

async fn authenticate(
    user: &str,
    peer: SocketAddr,
    shared: &Shared,
    reader: &mut Reader,
    writer: &mut Writer,
) -> Result<Login, End> {
    writer.put(Answer::Authentication(Authentication::SASL(vec![MECHANISM.to_owned()])))?;
    writer.flush().await?;
    let (mechanism, client_first) = initial_response(password(reader).await?).ok_or_else(malformed)?;
    if mechanism != MECHANISM {
        return Err(Refusal::fatal(code::PROTOCOL, format!("log in by {MECHANISM}")).into());
    }
    let address = peer.ip().to_canonical();
    shared.tries.check(user, address)?;
    let verifier = shared.accounts.verifier(user).await?;
    let decoy = || (Verifier::decoy(user, &shared.decoy_secret), String::new());
    let (verifier, password_mark) = verifier.unwrap_or_else(decoy);
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let exchange = Exchange::begin(&client_first, verifier).map_err(|error| refused(&error))?;
    let challenge = Bytes::from(exchange.challenge().to_owned());
    writer.put(Answer::Authentication(Authentication::SASLContinue(challenge)))?;
    writer.flush().await?;
    let client_final = String::from_utf8(password(reader).await?.into()).map_err(|_| malformed())?;
    let Some(last) = exchange.finish(&client_final).map_err(|error| refused(&error))? else {
        shared.tries.failed_again(user, address);
        tracing::warn!(user, %peer, "wrong password on the postgres wire");
        let message = format!("password authentication failed for user \"{user}\"");
        return Err(Refusal::fatal(code::BAD_PASSWORD, message).into());
    };
    writer.put(Answer::Authentication(Authentication::SASLFinal(last.into())))?;
    Ok(Login { user: user.to_owned(), password_mark, at })
}

async fn password(reader: &mut Reader) -> Result<Bytes, End> {
    match reader.message().await? {
        Some(Message::Password(bytes)) => Ok(bytes),
        Some(_) => Err(Refusal::fatal(code::PROTOCOL, "a password was expected").into()),
        None => Err(End::Gone),
    }
}

/// The mechanism's name, and the client's first message after its length.
fn initial_response(mut bytes: Bytes) -> Option<(String, String)> {
    let name = bytes.split_to(bytes.iter().position(|byte| *byte == 0)?);
    bytes.advance(1);
    let length = bytes.first_chunk::<4>().map(|length| i32::from_be_bytes(*length))?;
    bytes.advance(4);
    let text = |bytes: Bytes| String::from_utf8(bytes.into()).ok();
    (usize::try_from(length) == Ok(bytes.len())).then(|| Some((text(name)?, text(bytes)?)))?
}

fn malformed() -> Refusal {
    Refusal::fatal(code::PROTOCOL, "malformed SCRAM message")
}

fn refused(error: &crate::scram::Malformed) -> Refusal {
    Refusal::fatal(code::PROTOCOL, error.to_string())
}

/// A setting of the startup message. Drivers send the time zone of their machine there; they are told ours.
fn adopt(variables: &mut Variables, name: &str, value: &str) -> Result<(), Refusal> {
    let name = name.to_ascii_lowercase();
    let fatal = |refusal: Refusal| Refusal { fatal: true, ..refusal };
    match name.as_str() {
        "user" | "database" | "replication" | "timezone" => Ok(()),
        name if name.starts_with("_pq_.") => Ok(()),
        "options" => {
            for (name, value) in options(value)? {
                variables.set(&name, &value).map_err(fatal)?;
            }
            Ok(())
        }
        name => variables.set(name, value).map(drop).map_err(fatal),
    }
}

/// `-c name=value --name=value`, with `\ ` for a space in a value.
fn options(text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let wrong = || Refusal::fatal(code::BAD_VALUE, "options are written as: -c name=value");
    let words = text.replace("\\ ", "\0");
    let mut words = words.split_whitespace();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let pair = match word {
            "-c" => words.next(),
            word => word.strip_prefix("-c").or_else(|| word.strip_prefix("--")),
        };
        let (name, value) = pair.and_then(|pair| pair.split_once('=')).ok_or_else(wrong)?;
        found.push((name.to_owned(), value.replace('\0', " ")));
    }
    Ok(found)
}

/// What the client is told when it is in.
pub(super) fn welcome(variables: &Variables, place: &Place, writer: &mut Writer) -> Result<(), End> {
    writer.put(Answer::Authentication(Authentication::Ok))?;
    for (name, value) in variables.told() {
        writer.put(Answer::ParameterStatus(ParameterStatus::new(name, value)))?;
    }
    let key = SecretKey::I32(place.key);
    writer.put(Answer::BackendKeyData(BackendKeyData::new(place.process, key)))?;
    Ok(writer.put(Answer::ReadyForQuery(ReadyForQuery::new(TransactionStatus::Idle)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_startup_message_are_read() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let found = options("-c statement_timeout=5s --datestyle=ISO,\\ MDY -cjit=off").unwrap();
        assert_eq!(
            found,
            [pair("statement_timeout", "5s"), pair("datestyle", "ISO, MDY"), pair("jit", "off")]
        );
        assert!(options("-x").is_err() && options("-c").is_err() && options("-c name").is_err());
    }

    #[test]
    fn the_first_message_of_sasl_is_read_with_care() {
        let read = |bytes: &'static [u8]| initial_response(Bytes::from_static(bytes));
        assert_eq!(read(b"M\0\0\0\0\x02ab"), Some(("M".into(), "ab".into())));
        for wrong in [&b""[..], b"M", b"M\0", b"M\0\0\0\0\x03ab", b"M\0\xff\xff\xff\xff", b"\xff\0\0\0\0\0"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
