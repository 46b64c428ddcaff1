//! The columns of a pipeline file: names, types, and the fields that belong to each type.

use std::collections::HashMap;
use std::fmt::Write;

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, NaiveDate, NaiveDateTime};

use super::parsed;
use crate::problem::{Place, Problems, nearest, quoted};
use crate::spec::{ColumnSpec, OneOrMany, TypeSpec, Word};
use crate::tree::Node;
use crate::{Column, ColumnName, ColumnType, Format, JsonPath, Reference, TimeFormat, shape};

/// Texts read as true unless the column gives others.
const TRUE_TEXTS: [&str; 5] = ["true", "t", "yes", "y", "1"];
/// Texts read as false unless the column gives others.
const FALSE_TEXTS: [&str; 5] = ["false", "f", "no", "n", "0"];

/// All columns, or `None` when one could not be read.
pub fn read(node: Option<&Node>, format: Option<&Format>, problems: &mut Problems) -> Option<Vec<Column>> {
    let node = node?;
    let columns: Vec<Option<Column>> =
        node.items().iter().map(|item| column(item, format, problems)).collect();
    tell_doubled(node.items(), problems);
    let columns: Vec<Column> = columns.into_iter().collect::<Option<_>>()?;
    (!columns.is_empty()).then_some(columns)
}

fn column(node: &Node, format: Option<&Format>, problems: &mut Problems) -> Option<Column> {
    let spec: ColumnSpec = shape::part(node)?;
    tell_strange_fields(&spec, node, problems);
    let name: Option<ColumnName> = parsed(&spec.name, node.place_of("name"), problems);
    let references = match &spec.references {
        None => Some(None),
        Some(text) => reference(text, node.place_of("references"), problems).map(Some),
    };
    let path = match &spec.path {
        None => Some(None),
        Some(text) => path(text, node.place_of("path"), format, problems).map(Some),
    };
    let required = spec.required.unwrap_or(true);
    let kind = kind(spec, node, problems);
    Some(Column { name: name?, path: path?, kind: kind?, required, references: references? })
}

fn path(text: &str, place: Place, format: Option<&Format>, problems: &mut Problems) -> Option<JsonPath> {
    if format.is_some_and(|format| !format.is_json()) {
        problems.add_help(
            place,
            "`path` is for the formats json and json_lines",
            "take it away, or write `format: { json: {} }`",
        );
        return None;
    }
    let path: JsonPath = parsed(text, place, problems)?;
    if !path.is_singular() {
        let message = format!("{} may find more than one value", quoted(text));
        problems.add_help(place, message, "name one place, with names and indexes only");
        return None;
    }
    Some(path)
}

/// Databases and SQL do not tell `Id` from `id`, so neither may a pipeline.
fn tell_doubled(items: &[Node], problems: &mut Problems) {
    let mut seen: HashMap<String, u64> = HashMap::new();
    for item in items {
        let Some(node) = item.field("name") else { continue };
        let Some(name) = super::text_of(node) else {
            continue;
        };
        match seen.get(&name.to_ascii_lowercase()) {
            Some(line) => {
                let message = format!("column {} was already given on line {line}", quoted(&name));
                problems.add_help(
                    node.place,
                    message,
                    "give each column a name of its own; upper and lower case count as the same",
                );
            }
            None => drop(seen.insert(name.to_ascii_lowercase(), node.place.line)),
        }
    }
}

/// Tells the fields that do not belong to the column's type.
fn tell_strange_fields(spec: &ColumnSpec, node: &Node, problems: &mut Problems) {
    let (type_name, belongs): (&str, &[&str]) = match spec.r#type {
        TypeSpec::Int64 => ("int64", &[]),
        TypeSpec::Float64 => ("float64", &[]),
        TypeSpec::Decimal => ("decimal", &["precision", "scale"]),
        TypeSpec::Bool => ("bool", &["true", "false"]),
        TypeSpec::Text => ("text", &["max_length"]),
        TypeSpec::Date => ("date", &["format"]),
        TypeSpec::Timestamp => ("timestamp", &["format", "zone"]),
    };
    let owners = [
        ("max_length", "text"),
        ("precision", "decimal"),
        ("scale", "decimal"),
        ("format", "date and timestamp"),
        ("zone", "timestamp"),
        ("true", "bool"),
        ("false", "bool"),
    ];
    for (field, owner) in owners {
        if node.field(field).is_some() && !belongs.contains(&field) {
            let message = format!("`{field}` does not belong to a column of type {type_name}");
            problems.add_help(
                node.place_of(field),
                message,
                format!("take it away; it is for columns of type {owner}"),
            );
        }
    }
}

fn reference(text: &str, place: Place, problems: &mut Problems) -> Option<Reference> {
    let Some((table, column)) = text.split_once('.') else {
        problems.add_help(
            place,
            format!("{} is not a column of a table", quoted(text)),
            "write `table.column`",
        );
        return None;
    };
    let table = parsed(table, place, problems);
    let column = parsed(column, place, problems);
    Some(Reference { table: table?, column: column? })
}

fn kind(spec: ColumnSpec, node: &Node, problems: &mut Problems) -> Option<ColumnType> {
    match spec.r#type {
        TypeSpec::Int64 => Some(ColumnType::Int64),
        TypeSpec::Float64 => Some(ColumnType::Float64),
        TypeSpec::Decimal => decimal(&spec, node, problems),
        TypeSpec::Bool => boolean(spec.r#true, spec.r#false, node, problems),
        TypeSpec::Text => Some(ColumnType::Text { max_length: spec.max_length }),
        TypeSpec::Date => {
            let formats = formats(spec.format, node, TimeKind::Date, problems)?;
            Some(ColumnType::Date { formats })
        }
        TypeSpec::Timestamp => {
            let formats = formats(spec.format, node, TimeKind::Timestamp, problems);
            let zone = zone(spec.zone, node.place_of("zone"), problems);
            Some(ColumnType::Timestamp { formats: formats?, zone: zone? })
        }
    }
}

fn decimal(spec: &ColumnSpec, node: &Node, problems: &mut Problems) -> Option<ColumnType> {
    let (Some(precision), Some(scale)) = (spec.precision, spec.scale) else {
        let message = "a column of type decimal needs `precision` and `scale`";
        problems.add_help(
            node.place_of("type"),
            message,
            "for amounts up to 99999999.99 write `precision: 10, scale: 2`",
        );
        return None;
    };
    if scale > precision {
        let message = format!("scale {scale} is more than precision {precision}");
        problems.add_help(
            node.place_of("scale"),
            message,
            "precision counts all digits, also those after the point",
        );
        return None;
    }
    Some(ColumnType::Decimal { precision, scale: i8::try_from(scale).ok()? })
}

fn boolean(
    true_words: Option<Vec<Word>>,
    false_words: Option<Vec<Word>>,
    node: &Node,
    problems: &mut Problems,
) -> Option<ColumnType> {
    let true_texts = texts(true_words, &TRUE_TEXTS, node.place_of("true"), problems);
    let false_texts = texts(false_words, &FALSE_TEXTS, node.place_of("false"), problems);
    let (true_texts, false_texts) = (true_texts?, false_texts?);
    let both = true_texts.iter().find(|yes| false_texts.iter().any(|no| no.eq_ignore_ascii_case(yes)));
    if let Some(text) = both {
        let message = format!("{} is read both as true and as false", quoted(text));
        let place = if node.field("true").is_some() { node.place_of("true") } else { node.place_of("false") };
        problems.add_help(place, message, "give both `true` and `false`, with no text in common");
        return None;
    }
    Some(ColumnType::Bool { true_texts, false_texts })
}

fn texts(
    words: Option<Vec<Word>>,
    default: &[&str],
    place: Place,
    problems: &mut Problems,
) -> Option<Vec<String>> {
    let Some(words) = words else {
        return Some(default.iter().map(|text| (*text).to_owned()).collect());
    };
    if words.is_empty() {
        problems.add_help(place, "the list is empty", "write at least one text, or take the field away");
        return None;
    }
    Some(words.into_iter().map(|word| word.0).collect())
}

/// The name of a time zone, UTC when there is none.
pub fn zone(zone: Option<String>, place: Place, problems: &mut Problems) -> Option<String> {
    let name = zone.unwrap_or_else(|| "UTC".to_owned());
    if name.parse::<chrono_tz::Tz>().is_ok() {
        return Some(name);
    }
    let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
    let help = match nearest(&name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write an IANA name such as `Europe/Madrid`".to_owned(),
    };
    problems.add_help(place, format!("{} is not a time zone", quoted(&name)), help);
    None
}

/// What a format must be able to tell.
#[derive(Clone, Copy, PartialEq)]
enum TimeKind {
    Date,
    Timestamp,
}

fn formats(
    written: Option<OneOrMany>,
    node: &Node,
    kind: TimeKind,
    problems: &mut Problems,
) -> Option<Vec<TimeFormat>> {
    let Some(written) = written else {
        return Some(Vec::new());
    };
    let field = node.field("format")?;
    let texts = written.texts();
    if texts.is_empty() {
        problems.add_help(
            field.place,
            "the list is empty",
            "write at least one format, or take the field away",
        );
        return None;
    }
    let formats: Vec<Option<TimeFormat>> = (0..)
        .zip(texts)
        .map(|(index, text)| time_format(text, field.place_of_item(index), kind, problems))
        .collect();
    formats.into_iter().collect()
}

fn time_format(text: String, place: Place, kind: TimeKind, problems: &mut Problems) -> Option<TimeFormat> {
    if StrftimeItems::new(&text).any(|item| item == Item::Error) {
        let message = format!("{} is not a strftime format", quoted(&text));
        problems.add_help(place, message, "write something like `%d/%m/%Y` or `%Y-%m-%d %H:%M:%S`");
        return None;
    }
    if reads_back(&text, kind) == Some(true) {
        return Some(TimeFormat(text));
    }
    let (what, help) = match kind {
        TimeKind::Date => ("a date", "name year, month and day, and no time, such as `%d/%m/%Y`"),
        TimeKind::Timestamp => {
            ("an instant", "name year, month, day, hour and minute, such as `%d/%m/%Y %H:%M`")
        }
    };
    problems.add_help(place, format!("{} does not tell {what}", quoted(&text)), help);
    None
}

/// Whether the format reads what it writes of a sample: only then nothing is missing in it.
fn reads_back(text: &str, kind: TimeKind) -> Option<bool> {
    let date = NaiveDate::from_ymd_opt(2021, 11, 23)?;
    let sample = date.and_hms_opt(14, 35, 36)?.and_utc().fixed_offset();
    let mut written = String::new();
    if kind == TimeKind::Date {
        let done = write!(written, "{}", date.format(text)).is_ok();
        return Some(done && NaiveDate::parse_from_str(&written, text) == Ok(date));
    }
    write!(written, "{}", sample.format(text)).ok()?;
    let with_offset = DateTime::parse_from_str(&written, text).ok().map(|time| time.naive_utc());
    let time = with_offset.or_else(|| NaiveDateTime::parse_from_str(&written, text).ok())?;
    let off_by = sample.naive_utc().signed_duration_since(time).num_seconds();
    Some((0..60).contains(&off_by))
}
