//! The notices of a pipeline file: who hears of the end of a job.

use minijinja::Environment;
use url::Url;

use crate::problem::{Place, Problems, did_you_mean, quoted};
use crate::spec::{EmailSpec, EndSpec, NoticeSpec, WebhookSpec};
use crate::tree::Node;
use crate::{Notice, NoticeOn, NoticeTarget, shape};

/// What an address may take from the job.
const ADDRESS_VARIABLES: [&str; 4] = ["sender", "pipeline", "status", "job_id"];

/// Longest address in bytes (RFC 5321, 4.5.3.1.3, without the angle brackets).
const ADDRESS_BYTES_MAX: usize = 254;

/// All notices, or `None` when one could not be read.
pub fn read(node: Option<&Node>, problems: &mut Problems) -> Option<Vec<Notice>> {
    let Some(node) = node else { return Some(Vec::new()) };
    let notices: Vec<Option<Notice>> = node.items().iter().map(|item| notice(item, problems)).collect();
    let sound: Option<Vec<Notice>> = notices.into_iter().collect();
    sound.filter(|_| matches!(node.value, crate::tree::Value::List(_)))
}

fn notice(node: &Node, problems: &mut Problems) -> Option<Notice> {
    match shape::part::<NoticeSpec>(node)? {
        NoticeSpec::Email(spec) => email(spec, node.field("email")?, problems),
        NoticeSpec::Webhook(spec) => webhook(spec, node.field("webhook")?, problems),
    }
}

fn ends(on: Option<Vec<EndSpec>>, place: Place, problems: &mut Problems) -> Option<NoticeOn> {
    let Some(on) = on else {
        return Some(NoticeOn { success: true, failed: true });
    };
    if on.is_empty() {
        problems.add_help(
            place,
            "the list is empty",
            "write `[success, failed]`, one of them, or take the field away",
        );
        return None;
    }
    Some(NoticeOn { success: on.contains(&EndSpec::Success), failed: on.contains(&EndSpec::Failed) })
}

fn email(spec: EmailSpec, node: &Node, problems: &mut Problems) -> Option<Notice> {
    let field = node.field("to")?;
    let to = spec.to.texts();
    if to.is_empty() {
        problems.add_help(field.place, "the list is empty", "write at least one address");
    }
    let mut sound = !to.is_empty();
    for (index, address) in to.iter().enumerate() {
        sound &= address_is_good(address, field.place_of_item(index), problems);
    }
    let on = ends(spec.on, node.place_of("on"), problems)?;
    sound.then_some(Notice { on, target: NoticeTarget::Email { to } })
}

fn address_is_good(text: &str, place: Place, problems: &mut Problems) -> bool {
    if text.contains("{{") || text.contains("{%") {
        return template_is_good(text, place, problems);
    }
    let good = is_address(text);
    if !good {
        let message = format!("{} is not an e-mail address", quoted(text));
        problems.add_help(
            place,
            message,
            "write something like `data@example.org`, or `\"{{ sender }}\"` for who sent the file",
        );
    }
    good
}

/// One `@` with something on both sides; the mail server decides the rest.
fn is_address(text: &str) -> bool {
    let clean = text.chars().all(|c| !c.is_whitespace() && !c.is_control() && !",;<>()\"".contains(c));
    let split = text.split_once('@').is_some_and(|(local, domain)| {
        let ends_well = !domain.starts_with(['.', '-']) && !domain.ends_with(['.', '-']);
        !local.is_empty() && !domain.is_empty() && !domain.contains('@') && ends_well
    });
    clean && split && text.len() <= ADDRESS_BYTES_MAX
}

fn template_is_good(text: &str, place: Place, problems: &mut Problems) -> bool {
    let environment = Environment::empty();
    let template = match environment.template_from_str(text) {
        Ok(template) => template,
        Err(error) => {
            let message = format!(
                "{} is not a template: {}",
                quoted(text),
                error.detail().unwrap_or("it does not parse")
            );
            problems.add_help(place, message, "write something like `\"{{ sender }}\"`");
            return false;
        }
    };
    let mut unknown: Vec<String> = template.undeclared_variables(false).into_iter().collect();
    unknown.retain(|name| !ADDRESS_VARIABLES.contains(&name.as_str()));
    unknown.sort();
    for name in &unknown {
        let help = did_you_mean(name, &ADDRESS_VARIABLES).unwrap_or_default();
        problems.add_help(place, format!("the template has an unknown variable {}", quoted(name)), help);
    }
    unknown.is_empty()
}

fn webhook(spec: WebhookSpec, node: &Node, problems: &mut Problems) -> Option<Notice> {
    let example = "https://example.org/hooks/tidemill";
    let url_is_good = url_is_good(&spec.url, example, node.place_of("url"), problems);
    let secret_is_good = match &spec.secret {
        None => true,
        Some(name) => secret_is_good(name, node.place_of("secret"), problems),
    };
    let on = ends(spec.on, node.place_of("on"), problems)?;
    let target = NoticeTarget::Webhook { url: spec.url, secret: spec.secret };
    (url_is_good && secret_is_good).then_some(Notice { on, target })
}

/// An http or https URL without user and password.
pub fn url_is_good(text: &str, example: &str, place: Place, problems: &mut Problems) -> bool {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        // What stands before an @ may be a password, which is repeated nowhere.
        let shown = if text.contains('@') { "this".to_owned() } else { quoted(text) };
        let message = format!("{shown} is not an http or https URL");
        problems.add_help(place, message, format!("write something like `{example}`"));
        return false;
    };
    if url.username().is_empty() && url.password().is_none() {
        return true;
    }
    // The URL itself is not repeated: it holds the secret.
    let help = "take them away; secrets stand in the settings and are named here";
    problems.add_help(place, "the URL holds a user or a password", help);
    false
}

/// A secret is named, never written: what looks like anything but a name is refused unrepeated.
pub fn secret_is_good(name: &str, place: Place, problems: &mut Problems) -> bool {
    let good = name.parse::<crate::ColumnName>().is_ok();
    if !good {
        let help =
            "write the name of a secret of the settings (a-z, A-Z, 0-9 and _), never the secret itself";
        problems.add_help(place, "this is not the name of a secret", help);
    }
    good
}
