//! A program of a pipeline: its arguments with their placeholders, the name of what it makes, its limits.
//! Pure; the processor runs it, and what it is given can't be anything but a list of fixed arguments.

use std::time::Duration;

/// Longest name of an artifact in bytes: part of a key, and of a header of HTTP.
const NAME_BYTES_MAX: usize = 200;
/// Bytes of the sender's file name that go into the name of an output.
const STEM_BYTES_MAX: usize = 120;
/// Names of what every job leaves behind.
pub(crate) const OWN_NAMES: [&str; 2] = ["report.json", "rejects.csv"];

/// One program, run without a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// A name looked for in `PATH`, or an absolute path.
    pub name: String,
    /// At least one holds the input and one the output.
    pub arguments: Vec<Argument>,
    /// The file that it has to make.
    pub output: OutputName,
    /// What it may use.
    pub limits: ProgramLimits,
}

/// What a program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramLimits {
    /// Longest run; default 10 minutes.
    pub time: Duration,
    /// Most address space in bytes; default 1 GiB.
    pub memory_bytes: u64,
    /// Largest file that it writes, in bytes; default 2 GiB.
    pub output_size_bytes: u64,
}

impl Default for ProgramLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(600), memory_bytes: 1 << 30, output_size_bytes: 2 << 30 }
    }
}

/// One argument: texts and placeholders, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument(Vec<Part>);

/// The name of a program's output: texts and the stem of the sender's file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputName(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Hole(&'static str),
}

impl Argument {
    /// Reads an argument; the error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parts(text, &["input", "output"]).map(Self)
    }

    /// Whether this placeholder, `input` or `output`, is in it.
    pub(crate) fn holds(&self, hole: &str) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Hole(name) if *name == hole))
    }

    /// The argument with the two paths in it.
    pub fn with(&self, input: &str, output: &str) -> String {
        filled(&self.0, |hole| if hole == "input" { input } else { output })
    }
}

impl OutputName {
    /// Reads the name; the error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let name = Self(parts(text, &["stem"])?);
        let sample = filled(&name.0, |_| "a");
        if !artifact_name_fits(&sample) {
            return Err(
                "a name has letters, digits, `.`, `-` and `_` only and does not begin with `.`".to_owned()
            );
        }
        if OWN_NAMES.contains(&sample.as_str()) {
            return Err(format!("every job has a `{sample}` of its own"));
        }
        Ok(name)
    }

    /// The name for a sender's file: of its name only letters, digits, `-`, `_` and inner `.` are kept.
    pub fn of(&self, file_name: Option<&str>) -> String {
        let stem = stem(file_name.unwrap_or_default());
        let name = filled(&self.0, |_| &stem);
        if OWN_NAMES.contains(&name.as_str()) { format!("_{name}") } else { name }
    }
}

/// Whether a name can be one of an artifact: a single part of a key, no way out of the job's folder.
pub fn artifact_name_fits(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.starts_with('.') && (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

fn stem(file_name: &str) -> String {
    let name = file_name.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let stem: String = stem.chars().map(safe).take(STEM_BYTES_MAX).collect();
    match stem.trim_matches('.') {
        "" => "output".to_owned(),
        stem => stem.to_owned(),
    }
}

fn filled<'a>(parts: &'a [Part], value: impl Fn(&str) -> &'a str) -> String {
    let texts = parts.iter().map(|part| match part {
        Part::Text(text) => text.as_str(),
        Part::Hole(name) => value(name),
    });
    texts.collect()
}

/// Splits at placeholders; `{{` and `}}` are braces.
fn parts(text: &str, known: &[&'static str]) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut held = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        held.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            held.push_str(&rest[..1]);
            rest = &rest[2..];
            continue;
        }
        let hole = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let name = hole.and_then(|(name, _)| known.iter().copied().find(|known| *known == name));
        let (Some((_, after)), Some(name)) = (hole, name) else {
            let known: Vec<String> = known.iter().map(|name| format!("`{{{name}}}`")).collect();
            return Err(format!(
                "the placeholders here are {}; write a brace twice to mean itself",
                known.join(" and ")
            ));
        };
        parts.push(Part::Text(std::mem::take(&mut held)));
        parts.push(Part::Hole(name));
        rest = after;
    }
    held.push_str(rest);
    parts.push(Part::Text(held));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_filled_within_one_argument() {
        for (text, expected) in [
            ("{input}", "/w/a b;$(x).mp4"),
            ("file:{input}", "file:/w/a b;$(x).mp4"),
            ("{input}={output}", "/w/a b;$(x).mp4=/w/o"),
            ("{{input}}", "{input}"),
            ("-vn", "-vn"),
            ("", ""),
        ] {
            assert_eq!(Argument::parse(text).unwrap().with("/w/a b;$(x).mp4", "/w/o"), expected, "{text}");
        }
        for bad in ["{inptu}", "{", "}", "{stem}", "{input", "{}"] {
            Argument::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn a_hostile_file_name_makes_a_harmless_output_name() {
        let name = OutputName::parse("{stem}.mp3").unwrap();
        for (file, expected) in [
            (Some("talk.mp4"), "talk.mp3"),
            (Some("a.b.mp4"), "a.b.mp3"),
            (Some("../../etc/passwd"), "passwd.mp3"),
            (Some("C:\\x\\y z.avi"), "y_z.mp3"),
            (Some(".."), "output.mp3"),
            (Some("été\r\n\".mov"), "_t____.mp3"),
            (Some(""), "output.mp3"),
            (None, "output.mp3"),
        ] {
            assert_eq!(name.of(file), expected);
            assert!(artifact_name_fits(&name.of(file)));
        }
        assert!(artifact_name_fits(&name.of(Some(&"x".repeat(5_000)))));
        assert_eq!(OutputName::parse("{stem}.json").unwrap().of(Some("report.xml")), "_report.json");
        for bad in ["", "a/b", "../x", ".x", "report.json", "rejects.csv", "{input}", "a b", &"x".repeat(300)]
        {
            assert!(OutputName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_cannot_leave_the_folder_of_its_job() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "é", &"x".repeat(201)] {
            assert!(!artifact_name_fits(bad), "{bad}");
        }
        assert!(artifact_name_fits("report.json") && artifact_name_fits("audio-1_2.mp3"));
    }
}
