//! A mail as bytes, RFC 5322 and MIME: plain text with an HTML alternative.
//!
//! Bodies are always quoted-printable, so that no byte of a text can end the message or be read as a
//! command, on whatever server (this also keeps clear of RUSTSEC-2026-0561); header lines never hold a line
//! break. The same message gives the same bytes. Used by the SMTP and the file notifier.

use lettre::message::header::{ContentTransferEncoding, ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, MultiPart, SinglePart};

use super::{MailMessage, NoticeError};

/// A header with a name of its own.
macro_rules! header {
    ($type:ident, $name:literal) => {
        #[derive(Clone)]
        struct $type(String);

        impl Header for $type {
            fn name() -> HeaderName {
                HeaderName::new_from_ascii_str($name)
            }
            fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
                Ok(Self(text.to_owned()))
            }
            fn display(&self) -> HeaderValue {
                HeaderValue::new(Self::name(), self.0.clone())
            }
        }
    };
}

header!(AutoSubmitted, "Auto-Submitted");
header!(TidemillJob, "X-Tidemill-Job");

/// Reads the address that mails are sent from, such as `Tidemill <tidemill@example.org>`.
pub(super) fn from_mailbox(from: &str) -> Result<Mailbox, NoticeError> {
    let broken = |message: String| NoticeError::Setting {
        action: "use the address that notices are sent from".into(),
        message,
    };
    if from.chars().any(char::is_control) {
        return Err(broken("it holds a control character".into()));
    }
    from.parse().map_err(|error| broken(format!("`{from}` is not a mail address ({error})")))
}

/// The whole mail, lines ended by CRLF.
pub(super) fn bytes(from: &Mailbox, mail: &MailMessage) -> Result<Vec<u8>, NoticeError> {
    let broken = |message: String| NoticeError::Message { job_id: mail.job_id.clone(), message };
    for (header, value) in [("subject", &mail.subject), ("message id", &mail.id), ("job id", &mail.job_id)] {
        if value.chars().any(char::is_control) {
            return Err(broken(format!("its {header} holds a line break or control character")));
        }
    }
    if !mail.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(broken("its message id holds more than a-z, A-Z, 0-9, `-`, `_` and `.`".into()));
    }
    let parts = MultiPart::alternative()
        .boundary(boundary(&mail.id))
        .singlepart(part(ContentType::TEXT_PLAIN, &mail.text).map_err(broken)?)
        .singlepart(part(ContentType::TEXT_HTML, &mail.html).map_err(broken)?);
    let message = lettre::Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, mail.to.clone()))
        .subject(mail.subject.clone())
        .date(mail.date.into())
        .message_id(Some(format!("<{}@{}>", mail.id, from.email.domain())))
        .header(AutoSubmitted("auto-generated".into()))
        .header(TidemillJob(mail.job_id.clone()))
        .multipart(parts)
        .map_err(|error| broken(error.to_string()))?;
    Ok(message.formatted())
}

fn part(kind: ContentType, text: &str) -> Result<SinglePart, String> {
    let body = Body::new_with_encoding(text.to_owned(), ContentTransferEncoding::QuotedPrintable)
        .map_err(|_| "its text cannot be encoded".to_owned())?;
    Ok(SinglePart::builder().header(kind).body(body))
}

/// `=_` never stands in quoted-printable text, so no text can hold the boundary. At most 70 characters
/// are allowed (RFC 2046, section 5.1.1), and only the end of the id differs between recipients.
fn boundary(id: &str) -> String {
    let start = id.len().saturating_sub(60);
    format!("=_{}", id.get(start..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> MailMessage {
        MailMessage {
            id: "0193abcd.0.0".into(),
            job_id: "0193abcd".into(),
            to: "ana@example.org".parse().unwrap(),
            subject: "Gehälter geladen".into(),
            text: "Zürich\n.\nQUIT\n".into(),
            html: "<p>Zürich</p>".into(),
            date: "2026-11-21T10:00:00Z".parse().unwrap(),
        }
    }

    fn formatted(message: &MailMessage) -> String {
        let from = from_mailbox("Tidemill <tidemill@example.org>").unwrap();
        String::from_utf8(bytes(&from, message).unwrap()).unwrap()
    }

    #[test]
    fn a_mail_is_ascii_encoded_and_the_same_each_time() {
        let mail = formatted(&message());
        assert!(mail.is_ascii());
        assert_eq!(mail, formatted(&message()));
        assert!(mail.contains("Message-ID: <0193abcd.0.0@example.org>\r\n"), "{mail}");
        assert!(mail.contains("Auto-Submitted: auto-generated\r\n"), "{mail}");
        assert!(mail.contains("Date: Sat, 21 Nov 2026 10:00:00 +0000\r\n"), "{mail}");
        assert!(mail.contains("Z=C3=BCrich\r\n"), "{mail}");
        assert_eq!(mail.matches("Content-Transfer-Encoding: quoted-printable").count(), 2);
        assert!(!mail.replace("\r\n", "").contains(['\r', '\n']), "a bare CR or LF");
    }

    #[test]
    fn a_plain_text_is_encoded_too_and_a_bare_line_break_with_it() {
        let mail = formatted(&MailMessage { text: "a\rb\nc".into(), html: "x".into(), ..message() });
        assert_eq!(mail.matches("Content-Transfer-Encoding: quoted-printable").count(), 2);
        assert!(mail.contains("a=0Db\r\nc"), "{mail}");
    }

    #[test]
    fn a_text_cannot_hold_the_boundary() {
        let boundary = boundary("0193abcd.0.0");
        let text = format!("--{boundary}\nContent-Type: text/html\n\nevil\n--{boundary}--\n");
        let mail = formatted(&MailMessage { text, ..message() });
        assert_eq!(mail.matches(&format!("--{boundary}")).count(), 3, "{mail}");
        assert!(super::boundary(&"x".repeat(200)).len() <= 70);
    }

    #[test]
    fn a_line_break_in_a_header_is_refused() {
        for message in [
            MailMessage { subject: "a\r\nBcc: b@example.org".into(), ..message() },
            MailMessage { id: "a>\r\nX: y".into(), ..message() },
            MailMessage { id: "a> <b".into(), ..message() },
            MailMessage { job_id: "a\nX: y".into(), ..message() },
        ] {
            let from = from_mailbox("tidemill@example.org").unwrap();
            let error = bytes(&from, &message).unwrap_err();
            assert!(matches!(error, NoticeError::Message { .. }), "{error}");
        }
        assert!(from_mailbox("Tidemill <t@example.org>\r\nBcc: x@example.org").is_err());
        assert!(from_mailbox("tidemill").is_err());
    }
}
