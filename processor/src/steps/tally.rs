//! Counts what became of the records and rows of an attempt, while they stream by. Exact where rows are records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

use crate::origins::Origins;

/// Records used and rows out.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Records of which at least one row came out.
    used: AtomicU64,
    /// Records that reached a statement behind which rows are no records.
    reached: AtomicU64,
    aggregated: AtomicBool,
    rows_out: AtomicU64,
}

impl Tally {
    /// Records that were used: those of which a row came out, or, behind an aggregate, all that reached it.
    pub(crate) fn used(&self) -> u64 {
        let counter = if self.aggregated.load(Ordering::Relaxed) { &self.reached } else { &self.used };
        counter.load(Ordering::Relaxed)
    }

    /// Rows that came out.
    pub(crate) fn rows_out(&self) -> u64 {
        self.rows_out.load(Ordering::Relaxed)
    }

    /// Counts records on their way into a statement that makes other rows of them.
    pub(super) fn reach(self: &Arc<Self>, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        self.aggregated.store(true, Ordering::Relaxed);
        let tally = Arc::clone(self);
        let mut records = Records::default();
        watch(rows, move |batch| {
            tally.reached.fetch_add(records.count(batch), Ordering::Relaxed);
        })
    }

    /// Counts what comes out of the last step.
    pub(super) fn count(self: &Arc<Self>, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let tally = Arc::clone(self);
        let mut records = Records::default();
        watch(rows, move |batch| {
            tally.rows_out.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            tally.used.fetch_add(records.count(batch), Ordering::Relaxed);
        })
    }
}

/// Rows of one record stand together, so a record is counted where it changes.
#[derive(Default)]
struct Records {
    last: Option<(u32, u64)>,
}

impl Records {
    fn count(&mut self, batch: &RecordBatch) -> u64 {
        let mut records = 0;
        for record in Origins::starts(batch) {
            records += u64::from(self.last != Some(record));
            self.last = Some(record);
        }
        records
    }
}

fn watch(
    rows: SendableRecordBatchStream,
    mut look: impl FnMut(&RecordBatch) + Send + 'static,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let watched = rows.map(move |batch| batch.inspect(&mut look));
    Box::pin(RecordBatchStreamAdapter::new(schema, watched))
}
