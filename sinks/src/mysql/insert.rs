//! The strict way: INSERTs of many rows with bound values. An error of the server stays an error, and the
//! rows it is about are found by halving. Used where LOAD DATA LOCAL is off, and after a load that failed.

use arrow::record_batch::RecordBatch;
use mysql_async::Value;
use tidemill_pipelines::Mode;

use super::ddl::quoted;
use super::session::Session;
use crate::cells::{Cell, Cells, Civil, civil_of_day, civil_of_micros, push_decimal};
use crate::{RefusedRow, Result, TablePlan};

/// Placeholders that one prepared statement may have.
const PLACEHOLDERS_MAX: usize = 65_535;

/// Rows of one statement; more gain nothing.
const ROWS_MAX: usize = 1_000;

/// Bytes of values in one statement, so that a statement stays small beside the batch it comes from.
const VALUES_BYTES_MAX: usize = 4 << 20;

/// What the head of a statement's packet may take.
const PACKET_RESERVE_BYTES: usize = 64;

/// A type and a bit for null stand beside each value.
const VALUE_BYTES: usize = 3;

const ACTION: &str = "insert the rows";

/// Inserts a checked batch; gives the rows that the server refused.
pub(crate) async fn insert(
    session: &mut Session,
    plan: &TablePlan,
    batch: &RecordBatch,
) -> Result<Vec<RefusedRow>> {
    let (mut at, mut refused) = (0, Vec::new());
    while at < batch.num_rows() {
        let (end, values, too_large) = gather(session, plan, batch, at)?;
        if let Some(too_large) = too_large {
            refused.push(too_large);
        } else {
            insert_halving(session, plan, batch, at..end, values, &mut refused).await?;
        }
        at = end;
    }
    Ok(refused)
}

/// As many rows from `from` on as one statement takes, at least one, and where they end; a row that no statement takes
/// comes alone, as refused.
fn gather(
    session: &Session,
    plan: &TablePlan,
    batch: &RecordBatch,
    from: usize,
) -> Result<(usize, Vec<Value>, Option<RefusedRow>)> {
    let columns = crate::cells::cells(plan, batch)?;
    let packet = session.max_allowed_packet.saturating_sub(PACKET_RESERVE_BYTES).max(1);
    let bytes_max = packet.min(VALUES_BYTES_MAX);
    // The statement itself is a packet too: a placeholder takes two bytes of it, and a row two more.
    let placeholders_max = PLACEHOLDERS_MAX.min(session.max_allowed_packet / 8);
    let rows_max = (placeholders_max / columns.len()).clamp(1, ROWS_MAX);
    let mut values = Vec::with_capacity(columns.len() * rows_max.min(batch.num_rows() - from));
    let mut bytes = 0;
    let mut row = from;
    while row < batch.num_rows() && row - from < rows_max {
        let start = values.len();
        let size: usize = columns.iter().map(|c| push_value(&mut values, c.get(row))).sum();
        if size > packet && row == from {
            let message = format!("a row of {size} bytes is larger than max_allowed_packet");
            return Ok((row + 1, Vec::new(), Some(RefusedRow { row, message })));
        }
        if bytes + size > bytes_max && row > from {
            values.truncate(start);
            break;
        }
        bytes += size;
        row += 1;
    }
    Ok((row, values, None))
}

fn rows_as_values(columns: &[Cells<'_>], rows: std::ops::Range<usize>) -> Vec<Value> {
    let mut values = Vec::with_capacity(columns.len() * rows.len());
    for row in rows {
        for column in columns {
            push_value(&mut values, column.get(row));
        }
    }
    values
}

/// Inserts rows; where one is refused, halves until it stands alone, and goes on with the others.
async fn insert_halving(
    session: &mut Session,
    plan: &TablePlan,
    batch: &RecordBatch,
    rows: std::ops::Range<usize>,
    values: Vec<Value>,
    refused: &mut Vec<RefusedRow>,
) -> Result<()> {
    let mut values = Some(values);
    let mut waiting = vec![rows];
    while let Some(range) = waiting.pop() {
        let sql = statement(plan, range.len());
        let bound = match values.take() {
            Some(values) => values,
            None => rows_as_values(&crate::cells::cells(plan, batch)?, range.clone()),
        };
        match try_insert(session, &sql, bound).await? {
            None => {}
            Some(message) if range.len() == 1 => refused.push(RefusedRow { row: range.start, message }),
            Some(_) => {
                let middle = range.start + range.len() / 2;
                waiting.push(middle..range.end);
                waiting.push(range.start..middle);
            }
        }
    }
    Ok(())
}

/// All rows or none; `Some` tells why a row was refused.
async fn try_insert(session: &mut Session, sql: &str, values: Vec<Value>) -> Result<Option<String>> {
    session.run(ACTION, "SAVEPOINT tidemill").await?;
    let refused = session.write_rows(ACTION, sql, values).await?;
    if refused.is_some() {
        session.run(ACTION, "ROLLBACK TO SAVEPOINT tidemill").await?;
    }
    Ok(refused)
}

fn statement(plan: &TablePlan, rows: usize) -> String {
    let names = plan.columns.iter().map(|c| c.name.as_str());
    let one = format!("({})", vec!["?"; plan.columns.len()].join(","));
    let mut sql = format!("INSERT INTO `{}` ({}) VALUES ", plan.table, quoted(names));
    sql.push_str(&vec![one.as_str(); rows].join(","));
    if plan.mode == Mode::Upsert {
        let updates = update_clause(plan, |name| format!("VALUES(`{name}`)"));
        sql.push_str(&format!(" ON DUPLICATE KEY UPDATE {updates}"));
    }
    sql
}

/// What an upsert does to a row that is there: all columns of the plan but the key.
pub(crate) fn update_clause(plan: &TablePlan, source: impl Fn(&str) -> String) -> String {
    let others = plan.columns.iter().filter(|c| !plan.key.contains(&c.name));
    let sets: Vec<String> = others.map(|c| format!("`{0}` = {1}", c.name, source(c.name.as_str()))).collect();
    match (sets.is_empty(), plan.key.first()) {
        (true, Some(key)) => format!("`{}`.`{key}` = `{}`.`{key}`", plan.table, plan.table),
        _ => sets.join(", "),
    }
}

/// Appends a cell as a bound value; tells how many bytes it takes at most, with its type and its bit for null.
fn push_value(values: &mut Vec<Value>, cell: Cell<'_>) -> usize {
    let (value, size) = match cell {
        Cell::Null => (Value::NULL, 1),
        Cell::Int64(value) => (Value::Int(value), 8),
        Cell::Float64(value) => (Value::Double(value), 8),
        Cell::Boolean(value) => (Value::Int(i64::from(value)), 8),
        Cell::Utf8(text) => (Value::Bytes(text.as_bytes().to_vec()), text.len() + 9),
        Cell::Decimal(value, scale) => {
            let mut text = Vec::with_capacity(41);
            push_decimal(&mut text, value, scale);
            (Value::Bytes(text), 42)
        }
        Cell::Date(day) => (date_value(civil_of_day(day)), 12),
        Cell::Timestamp(micros) => (date_value(civil_of_micros(micros)), 12),
    };
    values.push(value);
    size + VALUE_BYTES
}

fn date_value(at: Civil) -> Value {
    Value::Date(at.year, at.month, at.day, at.hour, at.minute, at.second, at.micro)
}
