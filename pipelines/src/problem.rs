//! A problem of a file that a person wrote: where it is, what is wrong, what to write instead.

use std::fmt;

use serde::Serialize;

/// One problem; all problems of a file are told together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file as the user named it.
    pub file: String,
    /// 1-based line, 0 when the problem is of the whole file.
    pub line: u64,
    /// 1-based column in characters, 0 when the problem is of the whole file.
    pub column: u64,
    /// What is wrong, lowercase, one sentence without a full stop.
    pub message: String,
    /// What to write instead, when that is known.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// Where in a file; `0:0` is the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// 1-based line.
    pub line: u64,
    /// 1-based column in characters.
    pub column: u64,
}

impl Place {
    /// The file as a whole.
    pub const FILE: Place = Place { line: 0, column: 0 };
}

/// Most problems told of one file: nobody reads more, and a hostile file cannot make more.
pub(crate) const PROBLEMS_MAX: usize = 100;

/// Longest piece of the user's own text that is repeated in a message, in characters.
const QUOTED_CHARS_MAX: usize = 80;

/// The problems of one file, collected while it is read.
#[derive(Debug)]
pub(crate) struct Problems {
    file: String,
    found: Vec<Problem>,
    untold: usize,
}

impl Problems {
    /// None yet.
    pub fn of(file: &str) -> Self {
        Self { file: file.to_owned(), found: Vec::new(), untold: 0 }
    }

    /// Adds a problem whose message says all.
    pub fn add(&mut self, place: Place, message: impl Into<String>) {
        self.push(place, message.into(), None);
    }

    /// Adds a problem with what to write instead.
    pub fn add_help(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(place, message.into(), Some(help.into()));
    }

    /// Whether none was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All problems, in the order of the file.
    pub fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| (problem.line, problem.column));
        if self.untold > 0 {
            let message = format!("{} more problems are not told", self.untold);
            self.found.push(problem(self.file, Place::FILE, message, Some("mend these first".to_owned())));
        }
        self.found
    }

    fn push(&mut self, place: Place, message: String, help: Option<String>) {
        if self.found.len() < PROBLEMS_MAX {
            self.found.push(problem(self.file.clone(), place, message, help));
        } else {
            self.untold += 1;
        }
    }
}

fn problem(file: String, place: Place, message: String, help: Option<String>) -> Problem {
    Problem { file, line: place.line, column: place.column, message, help }
}

/// The user's own text in a message: cut when long, control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(shown_char).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

fn shown_char(c: char) -> impl Iterator<Item = char> {
    let (escaped, plain) = if c.is_control() { (Some(c.escape_default()), None) } else { (None, Some(c)) };
    escaped.into_iter().flatten().chain(plain)
}

/// The nearest of the names that are known, when one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: String = name.chars().take(QUOTED_CHARS_MAX).collect::<String>().to_lowercase();
    let far = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|known| (strsim::osa_distance(&name, &known.to_lowercase()), known))
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Help for a name that is not known: the nearest one, or all when they are few.
pub(crate) fn did_you_mean(name: &str, known: &[&str]) -> Option<String> {
    if let Some(near) = nearest(name, known.iter().copied()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let few = !known.is_empty() && known.len() <= 20;
    few.then(|| format!("write {}", listed(known)))
}

/// Names in a sentence: `` `a`, `b` or `c` ``.
pub(crate) fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
