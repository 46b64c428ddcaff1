//! Makes the messages of a notice: one for each recipient, with subject, text and HTML for mail, and the
//! finished event itself for a webhook.
//!
//! A message says what was taken, what was refused and why, what to do, and where the rest is. Its texts
//! stand in `templates/`. The same job gives the same message, byte for byte, however often it is made.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use lettre::Address;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use tidemill_pipelines::{Blame, Notice, NoticeTarget};

use super::finished::{Ending, FinishedNotice, clean};
use super::recipient::{Addressing, address};
use super::{NoticeError, RejectLine};

/// Refused records told in a message; the rest is behind a link.
pub(super) const REJECTS_MAX: usize = 10;
/// Characters of a file name in a message; no common file system has longer ones.
const NAME_CHARS_MAX: usize = 255;
/// Characters of a file name in a subject: mail programs show few more.
const SUBJECT_NAME_CHARS_MAX: usize = 60;
/// Characters of the reason of one refused record.
const REASON_CHARS_MAX: usize = 300;
/// Characters of the reason of a failed job.
const ERROR_CHARS_MAX: usize = 2_000;

/// One message to one recipient.
#[derive(Debug, Clone)]
pub enum Message {
    /// To a person.
    Mail(MailMessage),
    /// To a program.
    Post(PostMessage),
}

/// A mail to one address.
#[derive(Debug, Clone)]
pub struct MailMessage {
    /// Made from job, notice and recipient: the same for a doubled message.
    pub id: String,
    /// The job.
    pub job_id: String,
    /// The recipient.
    pub to: Address,
    /// One line.
    pub subject: String,
    /// The body as plain text, lines ended by `\n`.
    pub text: String,
    /// The same as HTML.
    pub html: String,
    /// When the job ended.
    pub date: DateTime<Utc>,
}

/// A POST of the finished event.
#[derive(Debug, Clone)]
pub struct PostMessage {
    /// Made from job, notice and recipient: the same for a doubled message.
    pub id: String,
    /// The job.
    pub job_id: String,
    /// Where to.
    pub url: String,
    /// Name of the secret that signs the body.
    pub secret: Option<String>,
    /// The event as JSON.
    pub event: Bytes,
}

/// The messages of the `index`-th notice of a pipeline, each under its id, in the order of the recipients. A
/// bad address spoils its own message only. The id holds the time of the end in milliseconds: a doubled send has
/// the same id, the end of a retried job another one.
pub fn messages(
    notice: &Notice,
    index: usize,
    finished: &FinishedNotice,
    event: &Bytes,
    addressing: &Addressing,
) -> Vec<(String, Result<Message, NoticeError>)> {
    let id = |recipient: usize| {
        let ended_ms = finished.finished_at.timestamp_millis();
        format!("{}.{ended_ms}.{index}.{recipient}", finished.job_id)
    };
    match &notice.target {
        NoticeTarget::Email { to } => {
            let mail = |(recipient, template): (usize, &String)| {
                let message =
                    address(template, finished, addressing).and_then(|to| mail(id(recipient), to, finished));
                (id(recipient), message.map(Message::Mail))
            };
            to.iter().enumerate().map(mail).collect()
        }
        NoticeTarget::Webhook { url, secret } => {
            let post = PostMessage {
                id: id(0),
                job_id: finished.job_id.clone(),
                url: url.clone(),
                secret: secret.clone(),
                event: event.clone(),
            };
            vec![(id(0), Ok(Message::Post(post)))]
        }
    }
}

fn mail(id: String, to: Address, finished: &FinishedNotice) -> Result<MailMessage, NoticeError> {
    let values = values(finished);
    let render = |name: &str, source: &str| {
        rendered(name, source, values.clone()).map_err(|error| NoticeError::Message {
            job_id: finished.job_id.clone(),
            message: error.to_string(),
        })
    };
    Ok(MailMessage {
        id,
        job_id: finished.job_id.clone(),
        to,
        subject: clean(&render("subject.txt", include_str!("templates/subject.txt"))?, NAME_CHARS_MAX),
        text: render("mail.txt", include_str!("templates/mail.txt"))?,
        html: render("mail.html", include_str!("templates/mail.html"))?,
        date: finished.finished_at,
    })
}

/// Renders one of our templates; the name's ending decides whether values are escaped for HTML.
fn rendered(name: &str, source: &str, values: Value) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = environment.syntax().to_builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.template_from_named_str(name, source)?.render(values)
}

/// What the templates know.
fn values(finished: &FinishedNotice) -> Value {
    let name = finished.file_name.as_deref().map(|name| clean(name, NAME_CHARS_MAX)).unwrap_or_default();
    let shown: Vec<Value> = finished.rejects.iter().take(REJECTS_MAX).map(reject).collect();
    let more = finished.records_rejected.saturating_sub(shown.len() as u64);
    let job = format!("{}/v1/jobs/{}", finished.links.trim_end_matches('/'), finished.job_id);
    context! {
        job_id => finished.job_id.clone(),
        pipeline => clean(&finished.pipeline, NAME_CHARS_MAX),
        success => finished.status == Ending::Success,
        sender => clean(&finished.sender, NAME_CHARS_MAX),
        short_name => clean(&name, SUBJECT_NAME_CHARS_MAX),
        file_name => name,
        records_in => grouped(finished.records_in),
        written => grouped(finished.records_written),
        rejected => grouped(finished.records_rejected),
        filtered => grouped(finished.records_filtered),
        files => finished.files.clone(),
        any_in => finished.records_in > 0,
        any_rejected => finished.records_rejected > 0,
        rejects => shown,
        more => if more > 0 { grouped(more) } else { String::new() },
        error => finished.error.as_ref().map(|error| context! {
            code => clean(&error.code, NAME_CHARS_MAX),
            message => clean(&error.message, ERROR_CHARS_MAX),
        }),
        advice => advice(finished),
        rejects_url => format!("{job}/rejects"),
        job_url => job,
        created_at => instant(finished.created_at),
        finished_at => instant(finished.finished_at),
    }
}

fn reject(line: &RejectLine) -> Value {
    context! {
        line => (line.line > 0).then(|| grouped(line.line)),
        column => line.column.as_deref().map(|column| clean(column, NAME_CHARS_MAX)),
        code => clean(&line.code, NAME_CHARS_MAX),
        message => clean(&line.message, REASON_CHARS_MAX),
    }
}

/// What the recipient can do about it.
fn advice(finished: &FinishedNotice) -> &'static str {
    let blame = finished.error.as_ref().map(|error| error.blame);
    let is_fetch = finished.error.as_ref().is_some_and(|error| error.code == "fetch_failed");
    match (finished.status, blame) {
        (Ending::Success, _) if finished.records_rejected > 0 => {
            "The good records are in. Mend the refused records and send them, without the others, as a new file."
        }
        (Ending::Success, _) => "Nothing is left to do.",
        (Ending::Failed, Some(_)) if is_fetch => {
            "Nothing was written. Once the cause is mended, `tidemill fetch PIPELINE --slot TIME` fetches it again."
        }
        (Ending::Failed, None | Some(Blame::Sender)) => {
            "Nothing was written. Mend the file and send it again."
        }
        (Ending::Failed, Some(Blame::Author)) => {
            "Nothing was written, and the file is not at fault: the author of the pipeline has to mend it. \
             Your file is kept; then the job can be retried."
        }
        (Ending::Failed, Some(Blame::Operator)) => {
            "Nothing was written, and the file is not at fault: the operator of this installation has to act. \
             Your file is kept; then the job can be retried."
        }
        (Ending::Failed, Some(Blame::World)) => {
            "Nothing was written, and the file is not at fault: another system did not answer. \
             Your file is kept; the job can be retried."
        }
    }
}

fn instant(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::NoticeCause;
    use tidemill_pipelines::NoticeOn;

    fn finished() -> FinishedNotice {
        FinishedNotice {
            job_id: "0193-job".into(),
            pipeline: "hired_employees".into(),
            status: Ending::Success,
            sender: "ana".into(),
            file_name: Some("staff.csv".into()),
            records_in: 2_000,
            records_written: 1_985,
            records_rejected: 12,
            records_filtered: 3,
            files: Vec::new(),
            error: None,
            rejects: (1..=12).map(line).collect(),
            created_at: "2026-11-21T10:00:00Z".parse().unwrap(),
            finished_at: "2026-11-21T10:00:01Z".parse().unwrap(),
            links: "https://tide.example/".into(),
        }
    }

    fn line(line: u64) -> RejectLine {
        RejectLine {
            line,
            column: Some("hired_at".into()),
            code: "bad_timestamp".into(),
            message: format!("`<x{line}>` is no timestamp"),
        }
    }

    fn told(finished: &FinishedNotice) -> MailMessage {
        mail("id".into(), "ana@example.org".parse().unwrap(), finished).unwrap()
    }

    #[test]
    fn a_message_says_what_was_taken_what_was_refused_and_where_the_rest_is() {
        let mail = told(&finished());
        assert_eq!(mail.subject, "hired_employees: staff.csv taken, 12 of 2,000 records refused");
        let expected = [
            "1,985",
            "line 1, column hired_at: `<x1>` is no timestamp (bad_timestamp)",
            "line 10, column hired_at",
            "and 2 more",
            "https://tide.example/v1/jobs/0193-job/rejects",
            "Mend the refused records",
            "0193-job",
        ];
        for text in expected {
            assert!(mail.text.contains(text), "{text:?} is not in\n{}", mail.text);
        }
        assert!(!mail.text.contains("x11"), "only the first ten are told");
        for text in ["&lt;x1&gt;", "and 2 more", "href=\"https:&#x2f;&#x2f;tide.example"] {
            assert!(mail.html.contains(text), "{text:?} is not in\n{}", mail.html);
        }
    }

    #[test]
    fn a_clean_success_asks_for_nothing() {
        let mail = told(&FinishedNotice { records_rejected: 0, rejects: vec![], ..finished() });
        assert_eq!(mail.subject, "hired_employees: staff.csv taken, 1,985 rows written");
        assert!(mail.text.contains("Nothing is left to do."));
        assert!(!mail.text.contains("refused records"), "{}", mail.text);
        assert!(!mail.text.contains("/rejects"), "{}", mail.text);
    }

    #[test]
    fn a_failure_says_why_and_who_has_to_act() {
        let cases = [
            (Blame::Sender, "Mend the file and send it again"),
            (Blame::Author, "the author of the pipeline"),
            (Blame::Operator, "the operator of this installation"),
            (Blame::World, "another system did not answer"),
        ];
        for (blame, expect) in cases {
            let cause =
                NoticeCause { code: "over_error_budget".into(), message: "12 of 20 refused".into(), blame };
            let mail = told(&FinishedNotice { status: Ending::Failed, error: Some(cause), ..finished() });
            assert_eq!(mail.subject, "hired_employees: staff.csv failed (over_error_budget)");
            assert!(mail.text.contains(expect) && mail.text.contains("12 of 20 refused"), "{}", mail.text);
            assert!(mail.html.contains(expect), "{}", mail.html);
            for body in [&mail.text, &mail.html] {
                assert!(!body.contains("rows written"), "a failed job writes nothing: {body}");
            }
        }
    }

    #[test]
    fn who_hears_of_a_failed_fetch_is_not_told_to_send_a_file() {
        for blame in [Blame::Sender, Blame::Author, Blame::Operator, Blame::World] {
            let cause = NoticeCause { code: "fetch_failed".into(), message: "status 500".into(), blame };
            let mail = told(&FinishedNotice { status: Ending::Failed, error: Some(cause), ..finished() });
            assert!(
                mail.text.contains("`tidemill fetch PIPELINE --slot TIME` fetches it again"),
                "{}",
                mail.text
            );
            assert!(!mail.text.contains("retried") && !mail.text.contains("send it"), "{}", mail.text);
        }
    }

    #[test]
    fn a_job_without_a_file_name_reads_well() {
        let mail =
            told(&FinishedNotice { file_name: None, rejects: vec![], records_rejected: 0, ..finished() });
        assert_eq!(mail.subject, "hired_employees: the data taken, 1,985 rows written");
    }

    #[test]
    fn texts_of_the_sender_cannot_add_lines_or_markup() {
        let name = "a.csv\r\nBcc: all@example.org\r\n\r\n<script>x</script>";
        let mail = told(&FinishedNotice { file_name: Some(name.into()), ..finished() });
        assert!(!mail.subject.contains(['\r', '\n']));
        assert!(!mail.text.contains('\r') && !mail.text.lines().any(|line| line.starts_with("Bcc")));
        assert!(!mail.html.contains("<script>"));
    }

    #[test]
    fn one_bad_address_spoils_no_other() {
        let to = vec!["{{ sender }}".to_owned(), "ops@example.org".to_owned()];
        let notice =
            Notice { on: NoticeOn { success: true, failed: true }, target: NoticeTarget::Email { to } };
        let messages = messages(&notice, 1, &finished(), &Bytes::new(), &Addressing::default());
        assert_eq!(messages[0].0, "0193-job.1795255201000.1.0");
        assert!(messages[0].1.is_err());
        assert!(matches!(&messages[1].1, Ok(Message::Mail(mail)) if mail.id == "0193-job.1795255201000.1.1"));
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, expect) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), expect);
        }
    }
}
