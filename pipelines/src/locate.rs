//! Where a part of a pipeline stands in its file, for problems that are found after parsing (SQL that does
//! not plan). The text is read again: problems are rare, and the domain stays free of places.

use crate::problem::{Place, Problems};
use crate::{Pipeline, tree};

impl Pipeline {
    /// Line and column, both 1-based, of a part such as `steps[1].sql`; of the nearest part around it when
    /// it was not written. (0, 0) when the text cannot be read.
    pub fn locate(&self, path: &str) -> (u64, u64) {
        let mut problems = Problems::of("");
        let Some(root) = tree::parse(&self.text, &mut problems) else {
            return (0, 0);
        };
        let mut node = &root;
        let mut place: Place = node.place;
        for part in path.split('.') {
            let (field, index) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
                Some((field, index)) => (field, index.parse::<usize>().ok()),
                None => (part, None),
            };
            let Some(next) = node.field(field) else { break };
            place = next.place;
            node = next;
            if let Some(index) = index {
                let Some(item) = node.items().get(index) else {
                    break;
                };
                place = item.place;
                node = item;
            }
        }
        (place.line, place.column)
    }
}
