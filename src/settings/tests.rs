//! Settings as users write them, right and wrong.

use std::path::Path;

use serde_json::Value;

use super::load::Loaded;
use super::*;

/// Loads a file with this text, and these variables and flags.
fn load_text(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidemill.toml");
    std::fs::write(&file, text).unwrap();
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let flags = owned(flags).into_iter().map(|(path, value)| ("--set".to_owned(), path, value)).collect();
    load(&Sources { file: Some(file), variables: owned(variables), flags })
}

fn problems(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str)], purpose: Purpose) -> String {
    let wrong = load_text(text, variables, flags).settings_for(purpose).unwrap_err();
    let lines = wrong.0.iter().map(|problem| {
        let whole = problem.to_string();
        // The folder of the test is random.
        whole.split_once("tidemill.toml:").map_or(whole.clone(), |(_, rest)| format!("file:{rest}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every path of the settings, with its default.
fn defaults() -> Vec<(String, Value)> {
    fn walk(path: &str, value: &Value, out: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, inner) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, inner, out);
                }
            }
            _ => out.push((path.to_owned(), value.clone())),
        }
    }
    let mut out = Vec::new();
    walk("", &serde_json::to_value(Settings::default()).unwrap(), &mut out);
    out
}

/// The example's settings: path, and whether the line is commented out.
fn example_lines() -> Vec<(String, bool)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = format!("{name}.");
        }
        let (text, commented) = match line.strip_prefix("# ") {
            Some(rest) => (rest, true),
            None => (line, false),
        };
        let Some((key, _)) = text.split_once(" = ") else {
            continue;
        };
        if key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            found.push((format!("{section}{key}"), commented));
        }
    }
    found
}

#[test]
fn the_example_names_every_setting_once_and_no_other() {
    let mut shown: Vec<String> = example_lines().into_iter().map(|(path, _)| path).collect();
    let mut known: Vec<String> = defaults().into_iter().map(|(path, _)| path).collect();
    shown.sort();
    known.sort();
    assert_eq!(shown, known);
}

/// What an installation must say by itself; a line of the example that loses its `#` would be a default of all.
const WITHOUT_DEFAULT: &str = "\
    broker.client broker.client_files broker.servers data database.url database.url_file fetcher.secrets \
    fetcher.secrets_files gateway.jwt_secret gateway.jwt_secret_file gateway.public_url notifier.default_domain \
    notifier.outbox notifier.secrets notifier.secrets_files notifier.smtp.ca_file notifier.smtp.host \
    notifier.smtp.password notifier.smtp.password_file notifier.smtp.port notifier.smtp.user objects.access_key \
    objects.access_key_file objects.endpoint objects.public_endpoint objects.region objects.secret_key \
    objects.secret_key_file objects.url postgres.certificate postgres.key postgres.listen processor.spill_dir \
    query.tables_url query.tables_url_file tables.url tables.url_file";

#[test]
fn places_and_secrets_have_no_default() {
    let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
    let mut without: Vec<String> =
        defaults().into_iter().filter(|(_, value)| empty(value)).map(|(path, _)| path).collect();
    without.sort();
    assert_eq!(without, WITHOUT_DEFAULT.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn a_section_with_nothing_in_it_is_as_if_it_were_not_there() {
    let settings = load_text("fetcher = {}\n[objects]\n# url = 1\n[notifier.smtp]\n", &[], &[]);
    assert_eq!(settings.settings_for(Purpose::Command).unwrap(), Settings::default());
}

#[test]
fn the_lines_that_are_commented_out_can_be_used() {
    let with: Vec<String> = DEFAULTS
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '.'])) => {
                rest.to_owned()
            }
            _ => line.to_owned(),
        })
        // The files are not there, and a secret stands in one place only.
        .filter(|line| !line.contains("_file"))
        .collect();
    let text =
        with.join("\n").replace("jwt_secret = \"…\"", "jwt_secret = \"0123456789abcdef0123456789abcdef\"");
    let wrong = load_text(&text, &[], &[]).settings_for(Purpose::Gateway).unwrap_err();
    // Mail goes to one place; all else is right.
    assert_eq!(wrong.0.len(), 1, "{wrong}");
    assert!(wrong.to_string().contains("mail goes to a server or to a folder"), "{wrong}");
}

#[test]
fn later_sources_win() {
    let text = "[processor]\nconcurrency = 3\nmemory = \"1GiB\"\njob_limit = \"1h30m\"";
    let variables = [
        ("TIDEMILL_PROCESSOR__CONCURRENCY", "5"),
        ("TIDEMILL_PROCESSOR__MEMORY", "64MiB"),
        ("TIDEMILL_NOTIFIER__WEBHOOK_ALLOW", "10.0.0.0/8, fd00::/8"),
        ("TIDEMILL_BROKER__CLIENT__SECURITY_PROTOCOL", "SSL"),
        ("TIDEMILL_DATABASE__URL", "sqlite:///x.db"),
        ("TIDEMILL_LOG", "debug"),
        ("TIDEMILL_TEST_KAFKA", "passed over"),
        ("TIDEMILL_ADMIN_PASSWORD", "passed over"),
        ("TIDEMILL_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("TIDEMILL_GATEWAY_PORT_80_TCP_PORT", "80"),
        ("TIDEMILL_PORT", "tcp://10.0.0.1:80"),
        ("HOME", "/root"),
    ];
    let flags = [("processor.memory", "32MiB"), ("broker.client.sasl.mechanisms", "PLAIN")];
    let settings = load_text(text, &variables, &flags).settings_for(Purpose::Command).unwrap();
    assert_eq!(settings.processor.concurrency, 5);
    assert_eq!(settings.processor.memory.bytes(), 32 << 20);
    assert_eq!(settings.processor.job_limit.get().as_secs(), 5400);
    assert_eq!(settings.notifier.webhook_allow, ["10.0.0.0/8", "fd00::/8"]);
    assert_eq!(settings.broker.client["security.protocol"].expose(), "SSL");
    assert_eq!(settings.broker.client["sasl.mechanisms"].expose(), "PLAIN");
    assert_eq!(settings.database.url.unwrap().expose(), "sqlite:///x.db");
    assert_eq!(settings.telemetry.log, "debug");
}

#[test]
fn everything_wrong_is_told_at_once_with_its_place() {
    let text = "\
pipelins = 1
[gateway]
listen = 'here'
jwt_secret = 'short'
connections_max = 0
[processor]
memory = 5
job_limit = '15'
[nonsense]
x = 1
";
    let variables = [
        ("TIDEMILL_DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("TIDEMILL_BROKER__PARTITIONS", "many"),
        ("TIDEMILL_NOTIFIER__SMTP__PORT", "70000"),
        ("TIDEMILL_OBJECTS__URL", "ftp://x"),
    ];
    let told = problems(text, &variables, &[("gateway", "x")], Purpose::Gateway);
    assert!(!told.contains("hunter2") && !told.contains("short'"), "a secret is told:\n{told}");
    insta::assert_snapshot!(told, @r#"
    file:1:1: there is no setting `pipelins`
      help: did you mean `pipelines`?
    file:3:1: `gateway.listen`: invalid socket address syntax
      help: write it as the default is written: "127.0.0.1:8080"
    file:4:1: `gateway.jwt_secret` is too short to be safe
      help: write at least 32 random bytes: openssl rand -base64 48
    file:5:1: `gateway.connections_max` is 0
      help: write a number from 1 to 100000
    file:7:1: `processor.memory`: `5` is no number with a unit, such as "64KiB" or "2GiB"
      help: write it as the default is written: "128MiB"
    file:8:1: `processor.job_limit`: `15` is no number with a unit, such as "500ms", "15m" or "1h30m"
      help: write it as the default is written: "15m"
    file:10:1: there is no setting `nonsense.x`
      help: tidemill.example.toml lists every setting
    variable TIDEMILL_BROKER__PARTITIONS: `broker.partitions`: invalid type: string "many", expected u32
      help: write it as the default is written: 12
    variable TIDEMILL_DATABASE_URL: there is no setting `TIDEMILL_DATABASE_URL`
      help: did you mean TIDEMILL_DATABASE__URL?
    variable TIDEMILL_NOTIFIER__SMTP__PORT: `notifier.smtp.port`: invalid value: integer `70000`, expected u16
      help: tidemill.example.toml shows how it is written
    variable TIDEMILL_OBJECTS__URL: `objects.url` names no object store that Tidemill knows
      help: write s3://bucket/prefix or file:///folder
    flag --set: `gateway`: invalid type: string "x", expected struct Gateway
      help: write a section [gateway]
    settings: `database.url` is missing, the gateway cannot start without it
      help: write url = … under [database] in tidemill.toml, or set TIDEMILL_DATABASE__URL
    settings: `broker.servers` is missing, the gateway cannot start without it
      help: write servers = … under [broker] in tidemill.toml, or set TIDEMILL_BROKER__SERVERS
    "#);
}

#[test]
fn a_role_says_all_that_it_misses() {
    for (purpose, missing) in [
        (Purpose::Gateway, vec!["database.url", "objects.url", "broker.servers", "gateway.jwt_secret"]),
        (Purpose::Processor, vec!["database.url", "objects.url", "broker.servers"]),
        (Purpose::Notifier, vec!["database.url", "objects.url", "broker.servers", "notifier.smtp.host"]),
    ] {
        let wrong = load_text("", &[], &[]).settings_for(purpose).unwrap_err();
        let found: Vec<&str> =
            wrong.0.iter().filter_map(|problem| problem.message.split('`').nth(1)).collect();
        assert_eq!(found, missing);
        assert!(wrong.to_string().contains("TIDEMILL_BROKER__SERVERS"), "{wrong}");
    }
    for purpose in [Purpose::Dev, Purpose::Command] {
        load_text("", &[], &[]).settings_for(purpose).unwrap();
    }
}

#[test]
fn a_secret_may_stand_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwt");
    std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
    let path = file.to_str().unwrap();
    let flags = [("gateway.jwt_secret_file", path), ("notifier.secrets_files.crm", path)];
    let settings = load_text("", &[], &flags).settings_for(Purpose::Command).unwrap();
    assert_eq!(settings.gateway.jwt_secret.unwrap().expose().len(), 32);
    assert_eq!(settings.notifier.secrets["crm"].expose().len(), 32);

    let both = problems("[gateway]\njwt_secret = 'x'", &[], &flags[..1], Purpose::Command);
    assert!(both.contains("both `gateway.jwt_secret` and `gateway.jwt_secret_file` are given"), "{both}");
    let none = problems("[tables]\nurl_file = '/nowhere/url'", &[], &[], Purpose::Command);
    assert!(none.starts_with("file:2:1: `tables.url_file`: failed to read `/nowhere/url`"), "{none}");
}

#[test]
fn a_file_that_is_not_toml_is_told_with_its_lines() {
    let told = problems("[gateway\nlisten = \n", &[], &[], Purpose::Command);
    assert!(told.contains("file:1:") && told.contains("file:2:"), "{told}");
    let missing = load(&Sources { file: Some(Path::new("/nowhere.toml").into()), ..Sources::default() });
    let told = missing.settings_for(Purpose::Command).unwrap_err().to_string();
    assert!(told.contains("failed to read settings file `/nowhere.toml`"), "{told}");
}

#[test]
fn no_text_makes_the_loader_panic() {
    for text in
        ["", "=", "[", "a.b.c.d = 1", "database = 1", "[[gateway]]", "notifier.smtp = []", "\u{0}", "é = é"]
    {
        load_text(
            text,
            &[("TIDEMILL_", "x"), ("TIDEMILL___", ""), ("TIDEMILL_é", "é")],
            &[(".", ""), ("", "[")],
        )
        .settings_for(Purpose::Gateway)
        .unwrap_err();
    }
}
