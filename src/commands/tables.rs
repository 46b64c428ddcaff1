//! Tables for people: plain columns, no frame around the whole, so that lines can be cut and pasted.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

/// A table of texts under a header.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    table.add_rows(rows);
    table.trim_fmt()
}
