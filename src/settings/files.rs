//! Secrets that stand in files of their own, as Kubernetes mounts them: `jwt_secret_file` for `jwt_secret`.

use std::path::Path;

use super::{Secret, Settings};

/// A secret has a few hundred bytes; more is some other file.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// The text of a file, when it is not larger than it may be.
pub fn read_bounded(path: &Path, bytes_max: u64) -> std::io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > bytes_max {
        return Err(std::io::Error::other(format!("it has {size} bytes, {bytes_max} are allowed")));
    }
    std::fs::read_to_string(path)
}

/// Fills each secret from its `_file`; gives (path, message, help) of what is wrong.
pub fn read_secret_files(settings: &mut Settings) -> Vec<(String, String, String)> {
    let mut problems = Vec::new();
    let single = [
        ("database.url", &settings.database.url_file, &mut settings.database.url),
        ("tables.url", &settings.tables.url_file, &mut settings.tables.url),
        ("query.tables_url", &settings.query.tables_url_file, &mut settings.query.tables_url),
        ("objects.access_key", &settings.objects.access_key_file, &mut settings.objects.access_key),
        ("objects.secret_key", &settings.objects.secret_key_file, &mut settings.objects.secret_key),
        ("gateway.jwt_secret", &settings.gateway.jwt_secret_file, &mut settings.gateway.jwt_secret),
        (
            "notifier.smtp.password",
            &settings.notifier.smtp.password_file,
            &mut settings.notifier.smtp.password,
        ),
    ];
    for (name, file, secret) in single {
        let Some(file) = file else { continue };
        match read_secret(&format!("{name}_file"), file, secret.is_some(), name) {
            Ok(found) => *secret = Some(found),
            Err(problem) => problems.push(problem),
        }
    }
    let maps = [
        ("broker.client", &settings.broker.client_files, &mut settings.broker.client),
        ("fetcher.secrets", &settings.fetcher.secrets_files, &mut settings.fetcher.secrets),
        ("notifier.secrets", &settings.notifier.secrets_files, &mut settings.notifier.secrets),
    ];
    for (name, files, secrets) in maps {
        for (key, file) in files {
            let twin = format!("{name}.{key}");
            match read_secret(&format!("{name}_files.{key}"), file, secrets.contains_key(key), &twin) {
                Ok(found) => drop(secrets.insert(key.clone(), found)),
                Err(problem) => problems.push(problem),
            }
        }
    }
    problems
}

fn read_secret(
    name: &str,
    file: &Path,
    twin_given: bool,
    twin: &str,
) -> Result<Secret, (String, String, String)> {
    if twin_given {
        let message = format!("both `{twin}` and `{name}` are given");
        return Err((name.to_owned(), message, "keep one of the two".to_owned()));
    }
    match read_bounded(file, SECRET_BYTES_MAX) {
        Ok(text) => Ok(Secret::new(text.trim_end_matches(['\r', '\n']))),
        Err(error) => {
            let message = format!("`{name}`: failed to read `{}`: {error}", file.display());
            Err((name.to_owned(), message, "name a readable file that holds only the secret".to_owned()))
        }
    }
}
