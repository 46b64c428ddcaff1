//! Notices: the mail server or the outbox folder, and webhooks.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use tidemill_sinks::notice::{
    Addressing, Allow, FileNotifier, Notifier as Way, Notifiers, SmtpNotifier, SmtpSettings, WebhookNotifier,
    WebhookSettings,
};

use crate::settings::{Notifier, Secret, Smtp, SmtpTls};

/// The ways of the settings; mail goes to the folder when one is given.
pub fn notifiers(settings: &Notifier, outbox: Option<PathBuf>) -> Result<Notifiers> {
    let mail: Arc<dyn Way> = match outbox {
        Some(folder) => Arc::new(FileNotifier::new(folder, &settings.smtp.from)?),
        None => Arc::new(SmtpNotifier::new(smtp(&settings.smtp))?),
    };
    let cidrs = settings.webhook_allow.iter().map(|block| block.parse()).collect::<Result<Vec<_>, _>>()?;
    let secrets = settings.secrets.iter().map(|(name, secret)| (name.clone(), secret.to_secrecy()));
    let webhook = WebhookNotifier::new(WebhookSettings {
        allow: Allow { cidrs },
        secrets: secrets.collect(),
        timeout: settings.webhook_timeout.get(),
        ca_file: None,
    })?;
    let addressing = Addressing { default_domain: settings.default_domain.clone() };
    Ok(Notifiers { mail, webhook: Arc::new(webhook), addressing })
}

/// The port of the settings, or the usual one.
pub fn port(smtp: &Smtp) -> u16 {
    smtp.port.unwrap_or(match smtp.tls {
        SmtpTls::None => 25,
        SmtpTls::Starttls => 587,
        SmtpTls::Implicit => 465,
    })
}

fn smtp(smtp: &Smtp) -> SmtpSettings {
    SmtpSettings {
        host: smtp.host.clone().unwrap_or_default(),
        port: port(smtp),
        tls: smtp.tls,
        user: smtp.user.clone(),
        password: smtp.password.as_ref().map(Secret::to_secrecy),
        from: smtp.from.clone(),
        timeout: smtp.timeout.get(),
        ca_file: smtp.ca_file.clone(),
    }
}
