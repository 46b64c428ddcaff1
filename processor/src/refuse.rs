//! Rejects of one attempt, from whichever stage: the decoder and checks on records, SQL steps, the database.
//!
//! One handle that all stages clone. Each reject is counted once and goes to the rejects file in the order in which it
//! comes. Memory is bounded: the raw text of a late reject is cut from the decoder's last windows, or read again from the
//! object by its byte range.

use arrow::record_batch::RecordBatch;

use crate::decode::RejectProblem;
use crate::error::Result;
use crate::origins::Origins;

/// The handle; see [`crate::origins`] for how a deliverer uses it.
#[derive(Clone)]
pub(crate) struct Rejects {}

impl Rejects {
    /// Refuses the record that row `row` of a batch came from, as a reject of this stage with line, bytes and raw text.
    /// Call it once for a record, and leave out all of its rows ([`Origins::record`]). Behind an aggregate the reject
    /// names the number of the output row, and its raw text is the row as CSV.
    ///
    /// Fails when the rejects cannot be written any more: the attempt is over then.
    pub(crate) async fn refuse(
        &self,
        _origins: &Origins,
        _batch: &RecordBatch,
        _row: usize,
        _stage: &'static str,
        _problem: RejectProblem,
    ) -> Result<()> {
        Ok(())
    }
}
