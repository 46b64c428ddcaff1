//! The YAML of a pipeline file as a tree in which every node knows its line and column.
//!
//! Only plain YAML is taken: one document, no anchors, aliases, tags or directives, so what is
//! written is what is meant and a small file cannot unfold into a large one. Called by [`crate::read`].

use granit_parser::{Event, Options, Parser, ScalarStyle, Span};

use crate::problem::{Place, Problems};

/// Largest pipeline file in bytes: a thousand times a long one.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting of lists and maps; a pipeline needs six. It bounds the recursion over the tree.
pub const NESTING_MAX: usize = 32;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// What a node is. A scalar stays the text that was written: its type is decided by the field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing was written after `key:` or `-`.
    Empty,
    /// A text, number or word.
    Scalar {
        /// Without quotes, escapes resolved.
        text: String,
        /// Whether it was written in quotes or as a block: then it is never a number or a bool.
        quoted: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file; no key twice.
    Map(Vec<(Key, Node)>),
}

/// The key of a map's entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Where it begins.
    pub place: Place,
    /// The key.
    pub text: String,
}

impl Node {
    /// The value of a map's field.
    pub fn field(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Where the value of a field begins, or the node itself when the field was not written.
    pub fn place_of(&self, name: &str) -> Place {
        self.field(name).map_or(self.place, |node| node.place)
    }

    /// The items of a list; none when it is no list.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Where the item of a list begins; a single value counts as a list of one.
    pub fn place_of_item(&self, index: usize) -> Place {
        self.items().get(index).map_or(self.place, |item| item.place)
    }

    /// What it is, in words of an error.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Empty => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Parses the text, or tells the first fault of its YAML. Duplicate keys are told and dropped.
pub fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes, more than the {FILE_BYTES_MAX} allowed", text.len());
        problems.add_help(Place::FILE, message, "keep data out of the pipeline file");
        return None;
    }
    let mut options = Options::default();
    options.disallow_directives = true;
    options.flow_nesting_limit = NESTING_MAX;
    options.block_nesting_limit = NESTING_MAX;
    let mut builder = Builder { problems, open: Vec::new(), root: None, documents: 0 };
    for next in Parser::new_from_str_with_options(text, options) {
        match next {
            Ok((event, span)) => builder.take(event, span)?,
            Err(error) => {
                let marker = error.marker();
                let place = Place { line: marker.line() as u64, column: marker.col() as u64 + 1 };
                builder.problems.add(place, format!("this is not YAML: {}", error.info()));
                return None;
            }
        }
    }
    let root = builder.root;
    if root.is_none() {
        problems.add_help(Place::FILE, "the file is empty", "begin with `pipeline: <name>`");
    }
    root
}

/// A list or map whose end was not reached yet.
enum Open {
    List(Place, Vec<Node>),
    Map(Place, Vec<(Key, Node)>, Option<Key>),
}

/// Puts the events of the parser together.
struct Builder<'a> {
    problems: &'a mut Problems,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
}

impl Builder<'_> {
    /// `None` ends the parse: a problem was told.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let place = Place { line: span.start.line() as u64, column: span.start.col() as u64 + 1 };
        match event {
            Event::DocumentStart(..) => self.document(place),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.refuse(place, "an alias (`*name`) is not allowed", "write the value out")
            }
            Event::Scalar(_, _, anchor, ref tag) if anchor != 0 || tag.is_some() => {
                self.refuse_property(place)
            }
            Event::SequenceStart(_, anchor, ref tag) | Event::MappingStart(_, anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                self.refuse_property(place)
            }
            Event::Scalar(text, style, _, _) => self.add(Node { place, value: scalar(&text, style, span) }),
            Event::SequenceStart(..) => self.begin(place, Open::List(place, Vec::new())),
            Event::MappingStart(..) => self.begin(place, Open::Map(place, Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            _ => Some(()),
        }
    }

    fn document(&mut self, place: Place) -> Option<()> {
        self.documents += 1;
        if self.documents > 1 {
            return self.refuse(place, "a second document begins here", "write one pipeline a file");
        }
        Some(())
    }

    fn begin(&mut self, place: Place, open: Open) -> Option<()> {
        if self.open.len() >= NESTING_MAX {
            let message = format!("lists and maps are nested deeper than {NESTING_MAX}");
            self.problems.add(place, message);
            return None;
        }
        self.open.push(open);
        Some(())
    }

    fn end(&mut self) -> Option<()> {
        let node = match self.open.pop()? {
            Open::List(place, items) => Node { place, value: Value::List(items) },
            Open::Map(place, entries, _) => Node { place, value: Value::Map(entries) },
        };
        self.add(node)
    }

    /// Adds a finished node to the list or map that is open.
    fn add(&mut self, node: Node) -> Option<()> {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, key)) => match key.take() {
                None => *key = Some(as_key(node, self.problems)?),
                Some(key) => add_entry(entries, key, node, self.problems),
            },
        }
        Some(())
    }

    fn refuse_property(&mut self, place: Place) -> Option<()> {
        self.refuse(
            place,
            "an anchor (`&name`) or a tag (`!name`) is not allowed",
            "write the value alone, in quotes if it begins with & or !",
        )
    }

    fn refuse(&mut self, place: Place, message: &str, help: &str) -> Option<()> {
        self.problems.add_help(place, message, help);
        None
    }
}

/// A value that was left out comes as the text `~` of no length.
fn scalar(text: &str, style: ScalarStyle, span: Span) -> Value {
    match style {
        ScalarStyle::Plain if text.is_empty() || span.is_empty() => Value::Empty,
        ScalarStyle::Plain => Value::Scalar { text: text.to_owned(), quoted: false },
        _ => Value::Scalar { text: text.to_owned(), quoted: true },
    }
}

fn as_key(node: Node, problems: &mut Problems) -> Option<Key> {
    match node.value {
        Value::Scalar { text, .. } => Some(Key { place: node.place, text }),
        _ => {
            problems.add_help(
                node.place,
                "the key of a map must be a word",
                "put a text with braces or brackets in quotes",
            );
            None
        }
    }
}

fn add_entry(entries: &mut Vec<(Key, Node)>, key: Key, node: Node, problems: &mut Problems) {
    match entries.iter().find(|(earlier, _)| earlier.text == key.text) {
        Some((earlier, _)) => {
            let message = format!("field `{}` was already given on line {}", key.text, earlier.place.line);
            problems.add_help(key.place, message, "keep one of the two");
        }
        None => entries.push((key, node)),
    }
}
