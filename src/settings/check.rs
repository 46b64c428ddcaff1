//! Checks beyond types: ranges, settings that go together, and what a role cannot start without.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Secret, Settings, SmtpTls, Span};

/// Shortest secret that HMAC-SHA-256 keeps its strength with, RFC 7518 section 3.2.
const JWT_SECRET_BYTES_MIN: usize = 32;
/// A day: the longest of most waits.
const DAY: Duration = Duration::from_secs(86_400);

/// What the settings are read for; it decides which may not be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The role `gateway`.
    Gateway,
    /// The role `processor`.
    Processor,
    /// The role `fetcher`.
    Fetcher,
    /// The role `notifier`.
    Notifier,
    /// `tidemill dev`: what is not named is kept in the folder `data`.
    Dev,
    /// A command that asks for each part when it needs it.
    Command,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Purpose::Gateway => "the gateway",
            Purpose::Processor => "the processor",
            Purpose::Fetcher => "the fetcher",
            Purpose::Notifier => "the notifier",
            Purpose::Dev => "dev",
            Purpose::Command => "this command",
        }
    }
}

/// Something wrong with the setting at `path`.
pub struct Found {
    /// Dotted path of the setting.
    pub path: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Everything that is wrong for this purpose.
pub fn check(settings: &Settings, purpose: Purpose) -> Vec<Found> {
    let mut checker = Checker { found: Vec::new() };
    checker.numbers(settings);
    checker.times(settings);
    checker.sizes(settings);
    checker.addresses(settings);
    checker.secrets(settings);
    checker.postgres(settings);
    checker.telemetry(settings);
    checker.missing(settings, purpose);
    checker.found
}

struct Checker {
    found: Vec<Found>,
}

impl Checker {
    fn wrong(&mut self, path: &'static str, message: impl Into<String>, help: impl Into<String>) {
        self.found.push(Found { path, message: message.into(), help: help.into() });
    }

    fn number(&mut self, path: &'static str, value: u64, range: RangeInclusive<u64>) {
        if !range.contains(&value) {
            let help = format!("write a number from {} to {}", range.start(), range.end());
            self.wrong(path, format!("`{path}` is {value}"), help);
        }
    }

    fn span(&mut self, path: &'static str, value: Span, shortest: Duration, longest: Duration) {
        if value.get() < shortest || value.get() > longest {
            let help = format!("write a time from {shortest:?} to {} hours", longest.as_secs() / 3600);
            self.wrong(path, format!("`{path}` is {value}"), help);
        }
    }

    fn numbers(&mut self, s: &Settings) {
        self.number("database.connections", s.database.connections.into(), 1..=1_000);
        self.number("tables.connections", s.tables.connections.into(), 1..=1_000);
        self.number("broker.partitions", s.broker.partitions.into(), 1..=1_000);
        self.number("broker.replication", s.broker.replication.into(), 1..=15);
        self.number("gateway.connections_max", s.gateway.connections_max.into(), 1..=100_000);
        self.number("gateway.uploads_max", s.gateway.uploads_max.into(), 1..=10_000);
        self.number("postgres.connections_max", s.postgres.connections_max.into(), 1..=10_000);
        self.number("postgres.user_connections_max", s.postgres.user_connections_max.into(), 1..=10_000);
        self.number("processor.concurrency", s.processor.concurrency.into(), 1..=256);
        self.number("processor.batch_rows", s.processor.batch_rows.into(), 1..=65_536);
        self.number("processor.lookup_rows_max", s.processor.lookup_rows_max, 1..=100_000_000);
        self.number("processor.retries_max", s.processor.retries_max.into(), 0..=20);
        self.number("fetcher.runs", s.fetcher.runs.into(), 1..=256);
        self.number("query.statements_max", s.query.statements_max.into(), 1..=256);
        let all = s.query.statements_max.into();
        self.number("query.statements_per_user_max", s.query.statements_per_user_max.into(), 1..=all);
        self.number("query.warm", s.query.warm.into(), 0..=all);
        self.number("query.threads", s.query.threads.into(), 1..=64);
        self.number("notifier.concurrency", s.notifier.concurrency.into(), 1..=1_000);
    }

    fn times(&mut self, s: &Settings) {
        let second = Duration::from_secs(1);
        self.span("connect_wait", s.connect_wait, Duration::ZERO, DAY);
        self.span("tables.lock_wait", s.tables.lock_wait, second, DAY);
        self.span("gateway.token_lifetime", s.gateway.token_lifetime, 60 * second, 30 * DAY);
        self.span("gateway.request_timeout", s.gateway.request_timeout, second, DAY);
        self.span("gateway.upload_idle", s.gateway.upload_idle, second, DAY);
        self.span("gateway.drain", s.gateway.drain, Duration::ZERO, DAY);
        self.span("postgres.idle", s.postgres.idle, second, 7 * DAY);
        self.span("processor.job_limit", s.processor.job_limit, second, 7 * DAY);
        self.span("processor.lease", s.processor.lease, 3 * second, DAY);
        self.span("processor.drain", s.processor.drain, Duration::ZERO, DAY);
        self.span("fetcher.run_limit", s.fetcher.run_limit, second, 7 * DAY);
        self.span("fetcher.lease", s.fetcher.lease, 3 * second, DAY);
        self.span("fetcher.keep_pages", s.fetcher.keep_pages, DAY, 3_650 * DAY);
        self.span("query.timeout", s.query.timeout, second, 3600 * second);
        self.span("query.queue_wait", s.query.queue_wait, Duration::ZERO, 60 * second);
        self.span("notifier.give_up_after", s.notifier.give_up_after, second, 30 * DAY);
        self.span("notifier.webhook_timeout", s.notifier.webhook_timeout, second, DAY);
        self.span("notifier.smtp.timeout", s.notifier.smtp.timeout, second, DAY);
        self.span("telemetry.poll", s.telemetry.poll, second, DAY);
    }

    fn sizes(&mut self, s: &Settings) {
        let processor = &s.processor;
        for (path, size, least, most) in [
            ("processor.memory", processor.memory, 16 << 20, 1 << 40),
            ("processor.record_max", processor.record_max, 1 << 10, 64 << 20),
            ("processor.document_max", processor.document_max, 1 << 10, 1 << 30),
            ("processor.raw_max", processor.raw_max, 16, 16 << 20),
            ("query.memory", s.query.memory, 64 << 20, 1 << 40),
        ] {
            if size.bytes() < least || size.bytes() > most {
                let help = format!("write a size from {least} to {most} bytes, with its unit");
                self.wrong(path, format!("`{path}` is {size}"), help);
            }
        }
    }

    fn addresses(&mut self, s: &Settings) {
        for (path, url) in [
            ("database.url", &s.database.url),
            ("tables.url", &s.tables.url),
            ("query.tables_url", &s.query.tables_url),
        ] {
            let known =
                |url: &Secret| ["mysql://", "sqlite:"].iter().any(|scheme| url.expose().starts_with(scheme));
            if url.as_ref().is_some_and(|url| !known(url)) {
                let help = "write mysql://user:password@host:3306/database or sqlite:///path/of/file.db";
                self.wrong(path, format!("`{path}` names no database that Tidemill knows"), help);
            }
        }
        let known = |url: &String| ["s3://", "file:///"].iter().any(|scheme| url.starts_with(scheme));
        if s.objects.url.as_ref().is_some_and(|url| !known(url)) {
            let help = "write s3://bucket/prefix or file:///folder";
            self.wrong("objects.url", "`objects.url` names no object store that Tidemill knows", help);
        }
        if s.objects.endpoint.as_ref().is_some_and(|url| url.starts_with("http://")) && !s.objects.allow_http
        {
            let help = "use https, or set objects.allow_http = true in a network that you trust";
            self.wrong("objects.endpoint", "`objects.endpoint` is plain http", help);
        }
        for (path, url) in
            [("gateway.public_url", &s.gateway.public_url), ("objects.endpoint", &s.objects.endpoint)]
        {
            let http = |url: &String| ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
            if url.as_ref().is_some_and(|url| !http(url)) {
                self.wrong(
                    path,
                    format!("`{path}` is no http URL"),
                    "write https://host or http://host:port",
                );
            }
        }
        let prefix = &s.broker.topic_prefix;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if prefix.is_empty() || prefix.len() > 200 || !prefix.bytes().all(allowed) {
            let help = "use 1 to 200 letters, digits, `.`, `_` and `-`";
            self.wrong("broker.topic_prefix", "`broker.topic_prefix` is no part of a topic's name", help);
        }
        for (path, blocks) in
            [("notifier.webhook_allow", &s.notifier.webhook_allow), ("fetcher.allow", &s.fetcher.allow)]
        {
            for block in blocks.iter().filter(|block| block.parse::<ipnet::IpNet>().is_err()) {
                let message = format!("`{path}`: `{block}` is no block of addresses");
                self.wrong(path, message, "write it as 10.1.0.0/16 or fd00::/8");
            }
        }
    }

    fn secrets(&mut self, s: &Settings) {
        if s.gateway.jwt_secret.as_ref().is_some_and(|secret| secret.expose().len() < JWT_SECRET_BYTES_MIN) {
            let help = format!("write at least {JWT_SECRET_BYTES_MIN} random bytes: openssl rand -base64 48");
            self.wrong("gateway.jwt_secret", "`gateway.jwt_secret` is too short to be safe", help);
        }
        let smtp = &s.notifier.smtp;
        if smtp.user.is_some() != smtp.password.is_some() {
            let help = "give both, or neither when the server asks for no login";
            self.wrong("notifier.smtp.user", "`notifier.smtp` has one of `user` and `password` only", help);
        }
        if smtp.user.is_some() && smtp.tls == SmtpTls::None {
            let help = "use tls = \"starttls\" or \"implicit\"";
            self.wrong("notifier.smtp.tls", "the mail password would be sent in plain text", help);
        }
    }

    fn postgres(&mut self, s: &Settings) {
        let postgres = &s.postgres;
        if postgres.certificate.is_some() != postgres.key.is_some() {
            let help = "give both files, or neither and only this machine can connect";
            self.wrong("postgres.certificate", "`postgres` has one of `certificate` and `key` only", help);
        }
        let open = postgres.listen.filter(|address| !address.ip().is_loopback());
        if let (Some(address), None) = (open, &postgres.certificate) {
            let message = format!("`postgres.listen` is {address}, which other machines reach, without TLS");
            let help = "give postgres.certificate and postgres.key, or listen on 127.0.0.1";
            self.wrong("postgres.listen", message, help);
        }
    }

    fn telemetry(&mut self, s: &Settings) {
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&s.telemetry.log) {
            let message = format!("`telemetry.log`: {error}");
            self.wrong("telemetry.log", message, "write a level such as info, or warn,tidemill=debug");
        }
    }

    fn missing(&mut self, s: &Settings, purpose: Purpose) {
        let (database, objects, broker, jwt, mail) = match purpose {
            Purpose::Gateway => (true, true, true, true, false),
            Purpose::Processor | Purpose::Fetcher => (true, true, true, false, false),
            Purpose::Notifier => (true, true, true, false, true),
            Purpose::Dev | Purpose::Command => (false, false, false, false, false),
        };
        let smtp = s.notifier.smtp.host.is_some();
        let outbox = s.notifier.outbox.is_some();
        for (needed, there, path) in [
            (database, s.database.url.is_some(), "database.url"),
            (objects, s.objects.url.is_some(), "objects.url"),
            (broker, s.broker.servers.is_some(), "broker.servers"),
            (jwt, s.gateway.jwt_secret.is_some(), "gateway.jwt_secret"),
            (mail, smtp || outbox, "notifier.smtp.host"),
        ] {
            if needed && !there {
                let message = format!("`{path}` is missing, {} cannot start without it", purpose.word());
                self.wrong(path, message, help_missing(path));
            }
        }
        if smtp && outbox {
            let help = "keep notifier.smtp for real mail, or notifier.outbox for files";
            self.wrong("notifier.outbox", "mail goes to a server or to a folder, and both are named", help);
        }
    }
}

fn help_missing(path: &str) -> String {
    let variable = path.replace('.', "__").to_ascii_uppercase();
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    format!("write {key} = … under [{section}] in tidemill.toml, or set TIDEMILL_{variable}")
}
