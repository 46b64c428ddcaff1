//! Mail addresses from the templates of a pipeline file, such as `{{ sender }}`.
//!
//! What a template gives is checked as a mail address before it comes near a header or an SMTP command: a
//! sender's name cannot add a recipient or a header line.

use lettre::Address;
use minijinja::{Environment, UndefinedBehavior, context};

use super::{Ending, FinishedNotice, NoticeError};

/// Longest address in bytes: RFC 5321, section 4.5.3.1.3 (a path of 256 with its brackets).
const ADDRESS_BYTES_MAX: usize = 254;
/// Steps that a template may take; a plain one takes fewer than ten.
const TEMPLATE_FUEL: u64 = 1_000;

/// How names become addresses.
#[derive(Debug, Clone, Default)]
pub struct Addressing {
    /// Added behind a name that has no `@`, such as the name of a user: `alice` becomes `alice@{domain}`.
    pub default_domain: Option<String>,
}

/// Checks an address of a pipeline file without a job: its syntax and the names it uses. The error says
/// what to write instead.
pub fn check_address_template(template: &str) -> Result<(), String> {
    let rendered = render(template, "someone@example.org", "pipeline", Ending::Success, "job")?;
    let addressing = Addressing { default_domain: Some("example.org".into()) };
    parse(&rendered, &addressing).map(drop)
}

/// The address that a template of the pipeline file gives for a finished job.
pub(super) fn address(
    template: &str,
    finished: &FinishedNotice,
    addressing: &Addressing,
) -> Result<Address, NoticeError> {
    render(template, &finished.sender, &finished.pipeline, finished.status, &finished.job_id)
        .and_then(|rendered| parse(&rendered, addressing))
        .map_err(|message| NoticeError::Address { template: super::error::said(template), message })
}

fn render(
    template: &str,
    sender: &str,
    pipeline: &str,
    status: Ending,
    job_id: &str,
) -> Result<String, String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(TEMPLATE_FUEL));
    environment
        .render_str(template, context! { sender, pipeline, status => status.as_str(), job_id })
        .map_err(|error| {
            let detail = error.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            format!("{}{detail}; it may use sender, pipeline, status and job_id", error.kind())
        })
}

fn parse(rendered: &str, addressing: &Addressing) -> Result<Address, String> {
    // Only spaces are taken off: a line break, even at the end, is refused below.
    let text = rendered.trim_matches(' ');
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if let Some(bad) = text.chars().find(|c| c.is_control() || c.is_whitespace() || "\"<>,;()\\".contains(*c))
    {
        return Err(format!("it holds {bad:?}, which an address may not; write one address for each entry"));
    }
    let (user, domain) = match (text.rsplit_once('@'), &addressing.default_domain) {
        (Some(parts), _) => parts,
        (None, Some(domain)) => (text, domain.as_str()),
        (None, None) => {
            return Err(format!(
                "`{text}` has no `@`; write a whole address, or set a default domain for notices"
            ));
        }
    };
    let domain = ascii_domain(domain)?;
    if user.len() + 1 + domain.len() > ADDRESS_BYTES_MAX {
        return Err(format!("it is longer than {ADDRESS_BYTES_MAX} bytes"));
    }
    Address::new(user, domain).map_err(|error| format!("`{text}` is not a mail address ({error})"))
}

/// The domain in the ASCII form that every mail server understands (`münchen.example` is `xn--mnchen-3ya.example`).
fn ascii_domain(domain: &str) -> Result<String, String> {
    if domain.starts_with('[') {
        return Err("its domain is a bare ip address; write a domain name".into());
    }
    match url::Host::parse(domain) {
        Ok(url::Host::Domain(domain)) => Ok(domain),
        Ok(_) => Err("its domain is a bare ip address; write a domain name".into()),
        Err(error) => Err(format!("its domain `{domain}` is none ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addressed(template: &str, sender: &str, domain: Option<&str>) -> Result<String, String> {
        let addressing = Addressing { default_domain: domain.map(str::to_owned) };
        let rendered = render(template, sender, "hires", Ending::Failed, "j1")?;
        parse(&rendered, &addressing).map(|address| address.to_string())
    }

    #[test]
    fn a_template_gives_an_address() {
        let cases = [
            ("{{ sender }}", "ana@example.org", None, "ana@example.org"),
            (" {{ sender }} ", "ana@example.org", None, "ana@example.org"),
            ("{{ sender }}", "ana", Some("example.org"), "ana@example.org"),
            ("{{ pipeline }}-{{ status }}@example.org", "", None, "hires-failed@example.org"),
            ("{{ sender }}", "ana@münchen.example", None, "ana@xn--mnchen-3ya.example"),
            ("{{ sender }}", "o'neil+tag@example.org", None, "o'neil+tag@example.org"),
        ];
        for (template, sender, domain, expect) in cases {
            assert_eq!(addressed(template, sender, domain).as_deref(), Ok(expect));
        }
    }

    #[test]
    fn a_name_that_is_no_address_is_refused_with_the_reason() {
        let cases = [
            ("{{ sender }}", "ana", None, "set a default domain"),
            ("{{ sender }}", "", None, "empty"),
            ("{{ sendr }}", "ana", None, "may use sender, pipeline, status and job_id"),
            ("{{ sender", "ana", None, "may use sender"),
            ("{{ sender }}", "a@x.example\r\nBcc: b@y.example", None, "'\\r'"),
            ("{{ sender }}", "a@x.example\n", None, "'\\n'"),
            ("{{ sender }}", "a@x.example, b@y.example", None, "','"),
            ("{{ sender }}", "a@x.example> NOTIFY=NEVER <b", None, "'>'"),
            ("{{ sender }}", "\"a b\"@x.example", None, "'\"'"),
            ("{{ sender }}", "a@[127.0.0.1]", None, "bare ip address"),
            ("{{ sender }}", "a@127.0.0.1", None, "bare ip address"),
            ("{{ sender }}", "@x.example", None, "not a mail address"),
            ("{{ sender }}", "a@b@x.example", None, "not a mail address"),
            ("{{ sender }}", "a@", None, "is none"),
            ("{% for i in range(99999) %}{% endfor %}a@x.example", "", None, "fuel"),
        ];
        for (template, sender, domain, expect) in cases {
            let error = addressed(template, sender, domain).unwrap_err();
            assert!(error.contains(expect), "{template} with {sender:?}: {error}");
        }
        let long = format!("{}@{}.example", "a".repeat(60), vec!["b".repeat(60); 4].join("."));
        assert!(addressed("{{ sender }}", &long, None).is_err());
    }

    #[test]
    fn a_template_is_checked_without_a_job() {
        assert_eq!(check_address_template("{{ sender }}"), Ok(()));
        assert_eq!(check_address_template("ops@example.org"), Ok(()));
        assert!(check_address_template("{{ user }}").is_err());
        assert!(check_address_template("ops example.org").is_err());
    }
}
