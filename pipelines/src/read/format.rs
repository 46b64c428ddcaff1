//! The format of a pipeline file: the dialect of a CSV file, the place of records in JSON, or a file as it is.

use crate::problem::{Place, Problems, quoted};
use crate::spec::{CsvSpec, FormatSpec, JsonSpec};
use crate::tree::Node;
use crate::{CsvFormat, Format, Header, JsonFormat, shape};

use super::parsed;

/// The format; CSV with a header when none is given.
pub fn read(node: Option<&Node>, problems: &mut Problems) -> Option<Format> {
    let Some(node) = node else {
        return csv(CsvSpec::default(), Place::FILE, Place::FILE, problems);
    };
    match shape::part(node)? {
        FormatSpec::Csv(spec) => {
            let fields = node.field("csv")?;
            csv(spec, fields.place_of("delimiter"), fields.place_of("quote"), problems)
        }
        FormatSpec::Json(JsonSpec { records }) => {
            let place = node.field("json")?.place_of("records");
            let records = records.map(|text| parsed(&text, place, problems));
            Some(Format::Json(JsonFormat { records: records.map_or(Some(None), |path| path.map(Some))? }))
        }
        FormatSpec::JsonLines(_) => Some(Format::JsonLines),
        FormatSpec::File(_) => Some(Format::File),
    }
}

fn csv(spec: CsvSpec, delimiter_place: Place, quote_place: Place, problems: &mut Problems) -> Option<Format> {
    let delimiter = delimiter(spec.delimiter.as_deref().unwrap_or(","), delimiter_place, problems);
    let quote = quote(spec.quote.as_deref().unwrap_or("\""), quote_place, problems);
    let (delimiter, quote) = (delimiter?, quote?);
    if quote == Some(delimiter) {
        problems.add(quote_place, "quote and delimiter are the same character");
        return None;
    }
    let null =
        spec.null.map_or_else(|| vec![String::new()], |words| words.into_iter().map(|word| word.0).collect());
    let header = if spec.header.unwrap_or(true) { Header::Names } else { Header::None };
    Some(Format::Csv(CsvFormat { header, delimiter, quote, null, trim: spec.trim.unwrap_or(false) }))
}

fn delimiter(text: &str, place: Place, problems: &mut Problems) -> Option<u8> {
    match text {
        "tab" => Some(b'\t'),
        "auto" => {
            problems.add_help(place, "a delimiter is not found out from the data", "write the character, such as `,` or `;`, or the word `tab`");
            None
        }
        _ => separator(text).or_else(|| {
            let message = format!("{} is not a delimiter", quoted(text));
            problems.add_help(place, message, "write one ASCII character that is no letter, digit or line end, such as `,` or `;`, or the word `tab`");
            None
        }),
    }
}

fn quote(text: &str, place: Place, problems: &mut Problems) -> Option<Option<u8>> {
    match text {
        "none" => Some(None),
        _ => separator(text).map(Some).or_else(|| {
            let message = format!("{} is not a quote", quoted(text));
            problems.add_help(place, message, "write one ASCII character such as `'\"'`, or the word `none`");
            None
        }),
    }
}

/// One byte that can't be taken for data or for a line end.
fn separator(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte @ (b'\t' | 0x1c..=0x1f | b' '..=b'~')] if !byte.is_ascii_alphanumeric() => Some(*byte),
        _ => None,
    }
}
