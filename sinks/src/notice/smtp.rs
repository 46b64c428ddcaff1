//! Mail by SMTP: one connection for each mail, one recipient for each mail.
//!
//! Taken means that the server answered the end of the data with 250. The commands are sent one by one, for
//! the same 5xx means different things: at login or at the sender's address the operator has to act, and the
//! mail waits; at the recipient or the data it is refused for good. One time limit holds for the whole of
//! it. A connection is never used again, so that a mail that was cut off cannot run into the next one.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use lettre::message::Mailbox;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Noop, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tidemill_pipelines::Blame;

use super::error::said;
use super::outbox::misrouted;
use super::{MailMessage, Message, NoticeError, Notifier, mail};

/// Time for saying goodbye; the mail is taken already, so it is not waited for longer.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How the connection is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    /// Not at all: for a relay on this machine or in this pod.
    None,
    /// Begun in the open and then required, usually port 587.
    #[default]
    Starttls,
    /// From the first byte, usually port 465.
    Implicit,
}

/// Where and how mail is handed over.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Protection of the connection.
    pub tls: SmtpTls,
    /// Login, with `password`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<SecretString>,
    /// The address that mails are sent from, such as `Tidemill <tidemill@example.org>`.
    pub from: String,
    /// Time for one mail in all, from the look-up of the name to the server's last answer.
    pub timeout: Duration,
    /// PEM file of certificates that are trusted beside the public ones.
    pub ca_file: Option<PathBuf>,
}

/// Hands mail to an SMTP server.
pub struct SmtpNotifier {
    server: String,
    host: String,
    port: u16,
    tls: SmtpTls,
    parameters: Option<TlsParameters>,
    credentials: Option<Credentials>,
    from: Mailbox,
    timeout: Duration,
    hello: ClientId,
}

impl SmtpNotifier {
    /// Checks the settings and reads the certificate file; connects to nothing.
    pub fn new(settings: SmtpSettings) -> Result<Self, NoticeError> {
        let credentials = credentials(&settings)?;
        let parameters = match settings.tls {
            SmtpTls::None => None,
            SmtpTls::Starttls | SmtpTls::Implicit => Some(tls_parameters(&settings)?),
        };
        Ok(Self {
            server: format!("{}:{}", settings.host, settings.port),
            from: mail::from_mailbox(&settings.from)?,
            host: settings.host,
            port: settings.port,
            tls: settings.tls,
            parameters,
            credentials,
            timeout: settings.timeout,
            hello: ClientId::default(),
        })
    }

    /// Connects, protects the connection, logs in.
    async fn connect(&self) -> Result<AsyncSmtpConnection, NoticeError> {
        let implicit = self.parameters.clone().filter(|_| self.tls == SmtpTls::Implicit);
        let address = (self.host.as_str(), self.port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(address, Some(self.timeout), &self.hello, implicit, None)
                .await
                .map_err(|error| self.unavailable("connect to", &error))?;
        if let (SmtpTls::Starttls, Some(parameters)) = (self.tls, self.parameters.clone()) {
            connection
                .starttls(parameters, &self.hello)
                .await
                .map_err(|error| self.start_tls_failed(&error))?;
        }
        if let Some(credentials) = &self.credentials {
            let login = connection.auth(DEFAULT_MECHANISMS, credentials).await;
            login.map_err(|error| self.operator_or_later("log in to", &error))?;
        }
        Ok(connection)
    }

    async fn hand_over(&self, message: &MailMessage, bytes: &[u8]) -> Result<(), NoticeError> {
        let mut connection = self.connect().await?;
        let handed = self.transact(&mut connection, message, bytes).await;
        // Whatever the server says to this, the mail's fate is known.
        let _ = tokio::time::timeout(QUIT_TIMEOUT, connection.quit()).await;
        handed
    }

    async fn transact(
        &self,
        connection: &mut AsyncSmtpConnection,
        message: &MailMessage,
        bytes: &[u8],
    ) -> Result<(), NoticeError> {
        let parameters = self.mail_parameters(connection, message)?;
        let from = Mail::new(Some(self.from.email.clone()), parameters);
        connection.command(from).await.map_err(|error| self.operator_or_later("begin a mail at", &error))?;
        let to = Rcpt::new(message.to.clone(), vec![]);
        let refused = |what: String, blame| move |error| self.refused_or_later(what, blame, &error);
        connection
            .command(to)
            .await
            .map_err(refused(format!("the recipient `{}`", message.to), Blame::Author))?;
        connection.command(Data).await.map_err(refused("the mail".into(), Blame::Operator))?;
        connection.message(bytes).await.map_err(refused("the mail".into(), Blame::Operator))?;
        Ok(())
    }

    /// A recipient whose name is not ASCII needs a server that knows SMTPUTF8 (RFC 6531).
    fn mail_parameters(
        &self,
        connection: &AsyncSmtpConnection,
        message: &MailMessage,
    ) -> Result<Vec<MailParameter>, NoticeError> {
        let plain =
            [&message.to, &self.from.email].iter().all(|address| AsRef::<str>::as_ref(*address).is_ascii());
        match (plain, connection.server_info().supports_feature(Extension::SmtpUtfEight)) {
            (true, _) => Ok(vec![]),
            (false, true) => Ok(vec![MailParameter::SmtpUtfEight]),
            (false, false) => Err(NoticeError::Refused {
                by: self.server.clone(),
                what: format!("the recipient `{}`", message.to),
                message: "it takes no addresses with other than ascii characters before the `@`".into(),
                blame: Blame::Author,
            }),
        }
    }

    async fn timed<T>(&self, work: impl Future<Output = Result<T, NoticeError>>) -> Result<T, NoticeError> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| {
            Err(NoticeError::Unavailable {
                action: format!("hand mail to {}", self.server),
                message: format!("no answer within {} s", self.timeout.as_secs_f32()),
                retry_after: None,
            })
        })
    }

    fn unavailable(&self, action: &str, error: &SmtpError) -> NoticeError {
        NoticeError::Unavailable {
            action: format!("{action} {}", self.server),
            message: said(&error.to_string()),
            retry_after: None,
        }
    }

    fn start_tls_failed(&self, error: &SmtpError) -> NoticeError {
        if error.is_client() {
            let message = "it offers no STARTTLS; set tls to `implicit`, or to `none` for a relay next door";
            return NoticeError::Setting { action: self.begin("start TLS with"), message: message.into() };
        }
        self.unavailable("start TLS with", error)
    }

    /// A refusal here is about this installation: the mail waits until the operator has mended it.
    fn operator_or_later(&self, action: &str, error: &SmtpError) -> NoticeError {
        if error.is_permanent() || error.is_client() {
            return NoticeError::Setting { action: self.begin(action), message: said(&error.to_string()) };
        }
        self.unavailable(action, error)
    }

    /// A refusal here is about this mail: it is final.
    fn refused_or_later(&self, what: String, blame: Blame, error: &SmtpError) -> NoticeError {
        if error.is_permanent() {
            return NoticeError::Refused {
                by: self.server.clone(),
                what,
                message: said(&error.to_string()),
                blame,
            };
        }
        self.unavailable("hand mail to", error)
    }

    fn begin(&self, action: &str) -> String {
        format!("{action} {}", self.server)
    }
}

#[async_trait]
impl Notifier for SmtpNotifier {
    async fn send(&self, message: &Message) -> Result<(), NoticeError> {
        let Message::Mail(message) = message else {
            return Err(misrouted(message, "mail"));
        };
        let bytes = mail::bytes(&self.from, message)?;
        self.timed(self.hand_over(message, &bytes)).await
    }

    async fn ping(&self) -> Result<(), NoticeError> {
        self.timed(async {
            let mut connection = self.connect().await?;
            connection.command(Noop).await.map_err(|error| self.unavailable("reach", &error))?;
            let _ = tokio::time::timeout(QUIT_TIMEOUT, connection.quit()).await;
            Ok(())
        })
        .await
    }
}

/// A password goes over a protected connection only, or stays on this machine.
fn credentials(settings: &SmtpSettings) -> Result<Option<Credentials>, NoticeError> {
    let wrong = |message: &str| NoticeError::Setting {
        action: format!("use the login of the mail server {}", settings.host),
        message: message.into(),
    };
    match (&settings.user, &settings.password) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(wrong("a user is set and no password")),
        (None, Some(_)) => Err(wrong("a password is set and no user")),
        (Some(_), Some(_)) if settings.tls == SmtpTls::None && !is_loopback(&settings.host) => {
            Err(wrong("the password would be readable on the way; set tls to `starttls` or `implicit`"))
        }
        (Some(user), Some(password)) => {
            Ok(Some(Credentials::new(user.clone(), password.expose_secret().to_owned())))
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn tls_parameters(settings: &SmtpSettings) -> Result<TlsParameters, NoticeError> {
    let mut builder = TlsParameters::builder(settings.host.clone());
    if let Some(file) = &settings.ca_file {
        let wrong = |message: String| NoticeError::Setting {
            action: format!("read the certificates of `{}`", file.display()),
            message,
        };
        let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
        builder = builder
            .add_root_certificate(Certificate::from_pem(&pem).map_err(|error| wrong(error.to_string()))?);
    }
    builder.build().map_err(|error| NoticeError::Setting {
        action: format!("prepare TLS to {}", settings.host),
        message: error.to_string(),
    })
}
