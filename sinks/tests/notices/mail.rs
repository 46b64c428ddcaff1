//! Mail against a real SMTP server, and as files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use secrecy::SecretString;
use tidemill_pipelines::{Blame, NoticeTarget, Retry};
use tidemill_sinks::notice::{
    Addressing, FileNotifier, FinishedNotice, MailMessage, Message, NoticeError, Notifier, Notifiers,
    Progress, SmtpNotifier, SmtpSettings, SmtpTls, deliver,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::{both_ends, finished, nowhere};

/// A variable that `tests/servers/servers up` prints.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run tests/servers/servers up and export what it prints")
    })
}

fn server() -> SmtpSettings {
    let address = variable("TIDEMILL_TEST_SMTP");
    let (host, port) = address.trim_start_matches("smtp://").trim_end_matches('/').rsplit_once(':').unwrap();
    SmtpSettings { host: host.into(), port: port.parse().unwrap(), ..plain(0) }
}

fn plain(port: u16) -> SmtpSettings {
    SmtpSettings {
        host: "127.0.0.1".into(),
        port,
        tls: SmtpTls::None,
        user: None,
        password: None,
        from: "Tidemill <tidemill@example.org>".into(),
        timeout: Duration::from_secs(20),
        ca_file: None,
    }
}

fn protected(password: &str) -> SmtpSettings {
    SmtpSettings {
        tls: SmtpTls::Starttls,
        user: Some(variable("TIDEMILL_TEST_SMTP_USER")),
        password: Some(SecretString::from(password)),
        ca_file: Some(PathBuf::from(variable("TIDEMILL_TEST_SMTP_CA"))),
        ..server()
    }
}

fn by_smtp(settings: SmtpSettings) -> Notifiers {
    Notifiers { mail: Arc::new(SmtpNotifier::new(settings).unwrap()), ..nowhere() }
}

/// A name that no other test uses.
fn unique(name: &str) -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("{name}-{}-{nanos}", std::process::id())
}

/// The mails that the server took for this recipient, as they came.
fn taken(recipient: &str) -> Vec<String> {
    let folder = variable("TIDEMILL_TEST_SMTP_MAILDIR");
    mails(Path::new(&folder)).into_iter().filter(|mail| mail.contains(&format!("To: {recipient}"))).collect()
}

fn mails(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let finished = entries.filter(|path| path.extension().is_some_and(|extension| extension == "eml"));
    finished.map(|path| String::from_utf8(std::fs::read(path).unwrap()).unwrap()).collect()
}

/// The text part, decoded from quoted-printable.
fn text(mail: &str) -> String {
    let part = mail.split_once("Content-Type: text/plain").unwrap().1;
    let body = part.split_once("\r\n\r\n").unwrap().1.split_once("\r\n--=_").unwrap().0;
    decoded(body)
}

fn decoded(quoted: &str) -> String {
    let joined = quoted.replace("=\r\n", "");
    let mut parts = joined.split('=');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}

fn headers(mail: &str) -> &str {
    mail.split_once("\r\n\r\n").unwrap().0
}

async fn tell(
    notifiers: &Notifiers,
    to: &[&str],
    finished: &FinishedNotice,
    progress: &mut Progress,
) -> Result<(), NoticeError> {
    let target = NoticeTarget::Email { to: to.iter().map(|to| to.to_string()).collect() };
    deliver(notifiers, &both_ends(target), 0, finished, &Bytes::new(), progress).await
}

#[tokio::test]
async fn a_mail_arrives_with_names_of_every_alphabet() {
    let (job, name) = (unique("job"), unique("ana"));
    let notifiers = by_smtp(server());
    let finished = FinishedNotice {
        sender: format!("{name}@example.org"),
        file_name: Some("Gehälter 東京 🦀.csv".into()),
        ..finished(&job)
    };
    tell(&notifiers, &["{{ sender }}"], &finished, &mut Progress::default()).await.unwrap();
    let mails = taken(&format!("{name}@example.org"));
    let [mail] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    let text = text(mail);
    for expect in [
        "Gehälter 東京 🦀.csv was taken",
        "column hired_at",
        &format!("/v1/jobs/{job}/rejects"),
        "and 1,998 more",
    ] {
        assert!(text.contains(expect), "{expect:?} is not in\n{text}");
    }
    assert!(
        headers(mail).contains(&format!("Message-ID: <{job}.1795255201000.0.0@example.org>")),
        "{}",
        headers(mail)
    );
    assert!(headers(mail).contains("Subject: hired_employees: =?utf-8?"), "{}", headers(mail));
}

#[tokio::test]
async fn a_sender_can_add_neither_recipient_nor_header_nor_part() {
    let (job, name) = (unique("job"), unique("ops"));
    let notifiers = by_smtp(server());
    let evil = "x\r\nBcc: victim@example.org\r\n\r\n--=_boundary\r\n.\r\nRCPT TO:<victim@example.org>\r\n";
    let finished = FinishedNotice {
        sender: format!("ana@example.org{evil}"),
        file_name: Some(evil.into()),
        ..finished(&job)
    };
    let to = format!("{name}@example.org");
    let error =
        tell(&notifiers, &["{{ sender }}", &to], &finished, &mut Progress::default()).await.unwrap_err();
    assert_eq!((error.retry(), error.blame()), (Retry::Never, Blame::Author), "{error}");
    assert!(!error.to_string().contains(['\r', '\n']), "{error:?}");
    let mails = taken(&to);
    let [mail] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    assert_eq!(mail.matches("X-Envelope-To").count(), 1);
    assert!(!headers(mail).lines().any(|line| line.starts_with("Bcc")), "{}", headers(mail));
    assert_eq!(mail.matches("Content-Type: ").count(), 3, "{mail}");
    assert!(taken("victim@example.org").is_empty());
}

#[tokio::test]
async fn a_text_that_looks_like_the_end_of_a_mail_is_only_text() {
    let to = format!("{}@example.org", unique("dots"));
    let sent = "first\n.\nQUIT\n..two dots\n.last\n";
    let message = Message::Mail(MailMessage {
        id: unique("job"),
        job_id: "job".into(),
        to: to.parse().unwrap(),
        subject: "dots".into(),
        text: sent.into(),
        html: "<p>.</p>".into(),
        date: "2026-11-21T10:00:00Z".parse().unwrap(),
    });
    SmtpNotifier::new(server()).unwrap().send(&message).await.unwrap();
    assert_eq!(text(&taken(&to)[0]).replace("\r\n", "\n"), sent);
}

#[tokio::test]
async fn a_refused_recipient_is_final_and_keeps_no_other_from_its_mail() {
    let (notifiers, finished) = (by_smtp(server()), finished(&unique("job")));
    let to = format!("{}@example.org", unique("ana"));
    let mut progress = Progress::default();
    for _ in 0..2 {
        let error =
            tell(&notifiers, &["refuse@example.org", &to], &finished, &mut progress).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Never);
        let told = error.to_string();
        assert!(
            told.contains("550") && told.contains("refuse@example.org") && told.contains("no such mailbox"),
            "{told}"
        );
    }
    assert_eq!(taken(&to).len(), 1, "a second delivery sends nothing again");
    assert_eq!(progress.settled().count(), 2);
}

#[tokio::test]
async fn a_busy_recipient_is_tried_again_alone() {
    let (notifiers, finished) = (by_smtp(server()), finished(&unique("job")));
    let to = format!("{}@example.org", unique("ana"));
    let mut progress = Progress::default();
    for _ in 0..2 {
        let error =
            tell(&notifiers, &["later@example.org", &to], &finished, &mut progress).await.unwrap_err();
        assert_eq!((error.retry(), error.blame()), (Retry::Later, Blame::World), "{error}");
        assert!(error.to_string().contains("451"), "{error}");
    }
    assert_eq!(taken(&to).len(), 1);
    assert_eq!(progress.settled().count(), 1);
}

#[tokio::test]
async fn a_recipient_that_the_server_cannot_name_is_refused() {
    let notifiers = by_smtp(server());
    let sent = tell(&notifiers, &["josé@example.org"], &finished("job"), &mut Progress::default()).await;
    let error = sent.unwrap_err();
    assert_eq!((error.retry(), error.blame()), (Retry::Never, Blame::Author), "{error}");
    assert!(error.to_string().contains("josé@example.org"), "{error}");
}

#[tokio::test]
async fn a_login_goes_over_a_protected_connection() {
    let to = format!("{}@example.org", unique("login"));
    let settings = protected(&variable("TIDEMILL_TEST_SMTP_PASSWORD"));
    SmtpNotifier::new(settings.clone()).unwrap().ping().await.unwrap();
    tell(&by_smtp(settings), &[&to], &finished("job"), &mut Progress::default()).await.unwrap();
    assert_eq!(taken(&to).len(), 1);
}

#[tokio::test]
async fn a_wrong_password_waits_for_the_operator_and_is_not_told() {
    let error = SmtpNotifier::new(protected("wr0ng-pa55")).unwrap().ping().await.unwrap_err();
    assert_eq!((error.retry(), error.blame()), (Retry::Later, Blame::Operator), "{error}");
    assert!(error.to_string().contains("535"), "{error}");
    assert!(!format!("{error} {error:?}").contains("wr0ng-pa55"));
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_gets_no_mail_and_no_password() {
    let to = format!("{}@example.org", unique("untrusted"));
    let untrusted = SmtpSettings { ca_file: None, ..protected("pw") };
    let error =
        tell(&by_smtp(untrusted), &[&to], &finished("job"), &mut Progress::default()).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Later);
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(taken(&to).is_empty());
}

#[tokio::test]
async fn a_server_without_the_protection_asked_for_gets_no_mail() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain_server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(b"220 plain\r\n").await.unwrap();
        let mut heard = String::new();
        stream.read_line(&mut heard).await.unwrap();
        stream.get_mut().write_all(b"250 plain\r\n").await.unwrap();
        while stream.read_line(&mut heard).await.unwrap_or(0) > 0 {}
        heard
    });
    let settings = SmtpSettings { tls: SmtpTls::Starttls, ..plain(port) };
    let error = SmtpNotifier::new(settings).unwrap().ping().await.unwrap_err();
    assert_eq!((error.retry(), error.blame()), (Retry::Later, Blame::Operator), "{error}");
    assert!(error.to_string().contains("STARTTLS"), "{error}");
    let heard = plain_server.await.unwrap();
    assert!(heard.starts_with("EHLO") && !heard.contains("MAIL"), "{heard}");
}

#[tokio::test]
async fn a_server_that_is_away_or_silent_is_tried_later() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let notifiers = by_smtp(plain(closed));
    let error =
        tell(&notifiers, &["a@example.org"], &finished("job"), &mut Progress::default()).await.unwrap_err();
    assert_eq!((error.retry(), error.blame()), (Retry::Later, Blame::World), "{error}");
    assert!(error.to_string().contains(&closed.to_string()), "{error}");

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings =
        SmtpSettings { timeout: Duration::from_millis(300), ..plain(silent.local_addr().unwrap().port()) };
    let begun = Instant::now();
    let error = SmtpNotifier::new(settings).unwrap().ping().await.unwrap_err();
    assert_eq!(error.retry(), Retry::Later, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn wrong_settings_are_refused_before_anything_is_sent() {
    let password = || Some(SecretString::from("pw"));
    let cases = [
        (SmtpSettings { from: "tidemill".into(), ..plain(25) }, "not a mail address"),
        (SmtpSettings { user: Some("u".into()), ..plain(25) }, "no password"),
        (SmtpSettings { password: password(), ..plain(25) }, "no user"),
        (
            SmtpSettings {
                host: "mx.example.org".into(),
                user: Some("u".into()),
                password: password(),
                ..plain(25)
            },
            "readable on the way",
        ),
        (
            SmtpSettings { tls: SmtpTls::Implicit, ca_file: Some("/nowhere/ca.pem".into()), ..plain(25) },
            "/nowhere/ca.pem",
        ),
    ];
    for (settings, expect) in cases {
        let error = SmtpNotifier::new(settings).err().unwrap();
        assert!(error.to_string().contains(expect), "{error}");
        assert_eq!(error.blame(), Blame::Operator);
    }
}

#[tokio::test]
async fn an_outbox_gets_each_mail_once_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = folder.path().join("outbox");
    let mail = Arc::new(FileNotifier::new(&outbox, "tidemill@example.org").unwrap());
    mail.ping().await.unwrap();
    let addressing = Addressing { default_domain: Some("example.org".into()) };
    let notifiers = Notifiers { mail, addressing, ..nowhere() };
    for _ in 0..2 {
        tell(&notifiers, &["{{ sender }}", "ops@example.org"], &finished("job-1"), &mut Progress::default())
            .await
            .unwrap();
    }
    let mut names: Vec<_> = std::fs::read_dir(&outbox)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["job-1.1795255201000.0.0.eml", "job-1.1795255201000.0.1.eml"]);
    let written = std::fs::read_to_string(outbox.join("job-1.1795255201000.0.0.eml")).unwrap();
    assert!(headers(&written).contains("To: ana@example.org"), "{written}");
    assert!(text(&written).contains("staff.csv was taken"), "{written}");
}

#[tokio::test]
async fn an_outbox_that_cannot_be_written_waits_for_the_operator() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("outbox");
    std::fs::write(&taken, "a file").unwrap();
    let mail = Arc::new(FileNotifier::new(&taken, "tidemill@example.org").unwrap());
    assert!(mail.ping().await.is_err());
    let notifiers = Notifiers { mail, ..nowhere() };
    let error =
        tell(&notifiers, &["a@example.org"], &finished("job"), &mut Progress::default()).await.unwrap_err();
    assert_eq!((error.retry(), error.blame()), (Retry::Later, Blame::Operator), "{error}");
    assert!(error.to_string().contains("outbox"), "{error}");
}

#[tokio::test]
async fn a_notice_for_the_other_end_of_a_job_is_not_sent() {
    let target = NoticeTarget::Email { to: vec!["a@example.org".into()] };
    let mut notice = both_ends(target);
    notice.on.success = false;
    let sent =
        deliver(&nowhere(), &notice, 0, &finished("job"), &Bytes::new(), &mut Progress::default()).await;
    sent.unwrap();
}
