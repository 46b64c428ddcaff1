//! The day of a row: the partition of its table. A date column is the partition itself; of a timestamp column
//! `at` a column `at_day` is made; without a day column `landed_day` is made, the day of the job's id.
//! Pure but for the clock, which is asked only when a job's id carries no time.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Date32Array};
use arrow::datatypes::{DataType, Date32Type, Field, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{Error, Place, Result, TablePlan};

const LANDED_DAY: &str = "landed_day";
const DAY_MICROS: i64 = 86_400_000_000;
const DAY_SECONDS: i64 = 86_400;

/// How a table is split by day.
pub(crate) struct Day {
    /// The partition column.
    pub(crate) name: String,
    origin: Origin,
    /// The columns of the table: those of the plan, and the made one.
    pub(crate) schema: SchemaRef,
}

enum Origin {
    /// The column is a date.
    Date(usize),
    /// Of the instants of this column.
    Instant(usize),
    /// One day for all rows.
    Landed,
}

impl Day {
    /// The split that a plan asks for.
    pub(crate) fn of(plan: &TablePlan) -> Result<Self> {
        let wrong = |difference: String| Error::Shape {
            table: plan.table.to_string(),
            differences: vec![difference],
        };
        let (name, origin) = match day_column(plan) {
            None => (LANDED_DAY.to_owned(), Origin::Landed),
            Some(day) => {
                let index = plan.columns.iter().position(|column| column.name.as_str() == day);
                let index = index.ok_or_else(|| wrong(format!("the day column `{day}` is not there")))?;
                match plan.columns[index].kind {
                    DataType::Date32 => (day.to_owned(), Origin::Date(index)),
                    DataType::Timestamp(..) => (made_name(day), Origin::Instant(index)),
                    _ => return Err(wrong(format!("the day column `{day}` is no date and no timestamp"))),
                }
            }
        };
        let mut fields: Vec<Field> = plan.columns.iter().map(|column| column.field(&plan.key)).collect();
        match origin {
            Origin::Date(_) => {}
            _ if fields.iter().any(|field| field.name().eq_ignore_ascii_case(&name)) => {
                return Err(wrong(format!("column `{name}` has the name of the column made for the day")));
            }
            Origin::Instant(index) => {
                let nullable = fields[index].is_nullable();
                fields.push(Field::new(&name, DataType::Date32, nullable));
            }
            Origin::Landed => fields.push(Field::new(&name, DataType::Date32, false)),
        }
        Ok(Self { name, origin, schema: Arc::new(Schema::new(fields)) })
    }

    /// The rows with their day, in the columns of the table; `landed` in days since 1970-01-01.
    pub(crate) fn split(&self, batch: &RecordBatch, landed: i32) -> Result<(RecordBatch, Date32Array)> {
        let days = match self.origin {
            Origin::Date(index) => batch.column(index).as_primitive::<Date32Type>().clone(),
            Origin::Instant(index) => {
                let instants = batch.column(index).as_primitive::<TimestampMicrosecondType>();
                instants.unary(|micros| micros.div_euclid(DAY_MICROS) as i32)
            }
            Origin::Landed => Date32Array::from_value(landed, batch.num_rows()),
        };
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        if !matches!(self.origin, Origin::Date(_)) {
            columns.push(Arc::new(days.clone()));
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        let rows =
            rows.map_err(|e| Error::Refused { action: "split the rows by day", message: e.to_string() })?;

        Ok((rows, days))
    }
}

fn day_column(plan: &TablePlan) -> Option<&str> {
    match &plan.place {
        Place::Lake { day } => day.as_ref().map(|day| day.as_str()),
        Place::Database => None,
    }
}

/// The column that is made to hold a row's day; `None` when a date column of the rows does.
pub fn made_day_column(plan: &TablePlan) -> Option<String> {
    let Some(day) = day_column(plan) else { return Some(LANDED_DAY.to_owned()) };
    let is_date = |column: &&crate::TableColumn| column.kind == DataType::Date32;
    let column = plan.columns.iter().find(|column| column.name.as_str() == day);
    if column.filter(is_date).is_some() { None } else { Some(made_name(day)) }
}

fn made_name(day: &str) -> String {
    format!("{day}_day")
}

/// The day on which a job landed, in days since 1970-01-01: its id is a UUID of version 7, which begins with
/// its time, so every attempt finds the same day.
pub(crate) fn landed_day(job_id: &str) -> i32 {
    let time = job_id.parse::<Uuid>().ok().and_then(|id| id.get_timestamp());
    let seconds = match time {
        Some(time) => time.to_unix().0 as i64,
        None => DateTime::timestamp(&Utc::now()),
    };
    seconds.div_euclid(DAY_SECONDS) as i32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::TimeUnit;
    use tidemill_pipelines::Mode;

    use super::*;
    use crate::TableColumn;

    fn plan(day: Option<&str>, columns: &[(&str, DataType)]) -> TablePlan {
        let columns = columns.iter().map(|(name, kind)| TableColumn {
            name: name.parse().unwrap(),
            kind: kind.clone(),
            nullable: true,
            max_length: None,
        });
        TablePlan {
            table: "t".parse().unwrap(),
            columns: columns.collect(),
            key: vec![],
            mode: Mode::Append,
            place: Place::Lake { day: day.map(|day| day.parse().unwrap()) },
        }
    }

    fn instant() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    #[test]
    fn an_instant_falls_on_its_day_in_utc_also_before_1970() {
        let day = Day::of(&plan(Some("at"), &[("at", instant())])).unwrap();
        assert_eq!(day.name, "at_day");
        let instants = [Some(0), Some(-1), Some(DAY_MICROS - 1), Some(DAY_MICROS), None];
        let instants = TimestampMicrosecondArray::from(instants.to_vec()).with_timezone("UTC");
        let fields = vec![Field::new("at", instant(), true)];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![Arc::new(instants)]).unwrap();
        let (rows, days) = day.split(&batch, 7).unwrap();
        assert_eq!(days, Date32Array::from(vec![Some(0), Some(-1), Some(0), Some(1), None]));
        assert_eq!(rows.num_columns(), 2);
    }

    #[test]
    fn a_date_is_the_partition_itself_and_without_a_day_all_rows_have_the_landed_one() {
        let dated = plan(Some("on"), &[("on", DataType::Date32)]);
        assert_eq!((Day::of(&dated).unwrap().name.as_str(), made_day_column(&dated)), ("on", None));
        let undated = plan(None, &[("on", DataType::Date32)]);
        assert_eq!(Day::of(&undated).unwrap().name, LANDED_DAY);
        assert_eq!(made_day_column(&undated).as_deref(), Some(LANDED_DAY));
    }

    #[test]
    fn a_day_that_cannot_be_told_is_refused() {
        for (day, columns, words) in [
            ("gone", vec![("a", DataType::Date32)], "is not there"),
            ("a", vec![("a", DataType::Utf8)], "is no date and no timestamp"),
            ("a", vec![("a", instant()), ("A_day", DataType::Utf8)], "has the name of the column made"),
        ] {
            let error = Day::of(&plan(Some(day), &columns)).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_landed_day_is_that_of_the_job_id() {
        assert_eq!(landed_day("018cc251-f400-7000-8000-000000000000"), 19_723); // 2024-01-01T00:00:00Z
    }
}
