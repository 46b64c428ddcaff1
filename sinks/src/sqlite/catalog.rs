//! The tables of a SQLite file: how we make them, what stands there, and which Arrow types it has.
//! SQLite knows too few types, so those of our tables are kept in `tidemill_columns`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tidemill_pipelines::{ColumnName, TableName};

use super::from_sqlx;
use crate::{Error, Result, TablePlan};

/// Tidemill's own tables begin so; they are not listed.
const OWN_PREFIX: &str = "tidemill_";

/// The exact types of the tables that Tidemill made.
pub(crate) const COLUMNS_TABLE: &str = "CREATE TABLE IF NOT EXISTS tidemill_columns (\
     table_name TEXT NOT NULL, column_name TEXT NOT NULL, position INTEGER NOT NULL, \
     kind TEXT NOT NULL, max_length INTEGER, nullable INTEGER NOT NULL, \
     PRIMARY KEY (table_name, column_name)) STRICT";

/// A column as it is.
#[derive(Debug, Clone)]
pub(crate) struct ColumnThere {
    pub(crate) name: String,
    /// As declared, in capitals.
    pub(crate) declared: String,
    pub(crate) nullable: bool,
    pub(crate) has_default: bool,
    pub(crate) generated: bool,
    /// Place in the primary key, 0 when it is not in it.
    pub(crate) key_place: i64,
    /// What Tidemill made it as.
    pub(crate) made_as: Option<(DataType, Option<u32>)>,
}

/// A table as it is.
#[derive(Debug, Clone)]
pub(crate) struct TableThere {
    pub(crate) name: String,
    pub(crate) view: bool,
    pub(crate) columns: Vec<ColumnThere>,
    /// Unique indexes beside the primary key.
    pub(crate) unique: Vec<String>,
    /// A key column compares texts otherwise than by their bytes.
    pub(crate) inexact_key: bool,
}

impl TableThere {
    /// The columns that Arrow has a type for.
    pub(crate) fn schema(&self) -> SchemaRef {
        let fields = self.columns.iter().filter_map(|column| {
            let _: ColumnName = column.name.parse().ok()?;
            Some(Field::new(&column.name, column.arrow_type()?, column.nullable))
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

impl ColumnThere {
    fn arrow_type(&self) -> Option<DataType> {
        let affinity = affinity(&self.declared);
        match &self.made_as {
            Some((kind, _)) if affinity == Some(storage(kind)) => Some(kind.clone()),
            _ => match affinity? {
                "INTEGER" => Some(DataType::Int64),
                "REAL" => Some(DataType::Float64),
                _ => Some(DataType::Utf8),
            },
        }
    }
}

/// How a type is stored.
pub(crate) fn storage(kind: &DataType) -> &'static str {
    match kind {
        DataType::Int64 | DataType::Boolean => "INTEGER",
        DataType::Float64 => "REAL",
        _ => "TEXT",
    }
}

/// How SQLite stores values of a declared type, by the first rules of "Datatypes In SQLite" 3.1; none for
/// BLOB and NUMERIC, which would change what is stored.
pub(crate) fn affinity(declared: &str) -> Option<&'static str> {
    let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    if has(&["INT"]) {
        Some("INTEGER")
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Some("TEXT")
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Some("REAL")
    } else {
        None
    }
}

/// The statement that makes a plan's table.
pub(crate) fn create_table(plan: &TablePlan) -> String {
    let mut lines: Vec<String> = Vec::with_capacity(plan.columns.len() + 1);
    for column in &plan.columns {
        let null = if column.nullable && !plan.key.contains(&column.name) { "" } else { " NOT NULL" };
        lines.push(format!("  \"{}\" {}{null}", column.name, storage(&column.kind)));
    }
    if !plan.key.is_empty() {
        lines.push(format!("  PRIMARY KEY ({})", quoted(plan.key.iter())));
    }
    format!("CREATE TABLE IF NOT EXISTS \"{}\" (\n{}\n) STRICT", plan.table, lines.join(",\n"))
}

/// Names in quotes, with commas between.
pub(crate) fn quoted<'a>(names: impl Iterator<Item = &'a ColumnName>) -> String {
    names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// Keeps the exact types of a table that was just made.
pub(crate) async fn record_columns(
    connection: &mut SqliteConnection,
    plan: &TablePlan,
) -> Result<(), sqlx::Error> {
    let sql = "DELETE FROM tidemill_columns WHERE table_name = ? COLLATE NOCASE";
    sqlx::query(sql).bind(plan.table.as_str()).execute(&mut *connection).await?;
    for (position, column) in plan.columns.iter().enumerate() {
        let sql = "INSERT INTO tidemill_columns \
                   (table_name, column_name, position, kind, max_length, nullable) \
                   VALUES (?, ?, ?, ?, ?, ?)";
        sqlx::query(sql)
            .bind(plan.table.as_str())
            .bind(column.name.as_str())
            .bind(i64::try_from(position).unwrap_or(i64::MAX))
            .bind(kind_text(&column.kind))
            .bind(column.max_length)
            .bind(column.nullable && !plan.key.contains(&column.name))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// A type in the words of pipeline files.
pub(crate) fn kind_text(kind: &DataType) -> String {
    match kind {
        DataType::Int64 => "int64".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        _ => "text".to_owned(),
    }
}

fn parse_kind(text: &str) -> Option<DataType> {
    Some(match text {
        "int64" => DataType::Int64,
        "float64" => DataType::Float64,
        "bool" => DataType::Boolean,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "text" => DataType::Utf8,
        _ => {
            let digits = text.strip_prefix("decimal(")?.strip_suffix(')')?;
            let (precision, scale) = digits.split_once(',')?;
            DataType::Decimal128(precision.parse().ok()?, scale.parse().ok()?)
        }
    })
}

/// One table, `None` when there is none of that name.
pub(crate) async fn table(pool: &SqlitePool, name: &str) -> Result<Option<TableThere>> {
    let read = async {
        let mut connection = pool.acquire().await?;
        let sql = "SELECT name, type = 'view' FROM sqlite_master \
                   WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')";
        let found = sqlx::query(sql).bind(name).fetch_optional(&mut *connection).await?;
        match found {
            None => Ok(None),
            Some(row) => read_table(&mut connection, row.try_get(0)?, row.try_get(1)?).await.map(Some),
        }
    };
    read.await.map_err(failed)
}

/// All tables whose names Tidemill can speak, without its own.
pub(crate) async fn tables(pool: &SqlitePool) -> Result<Vec<(TableName, SchemaRef)>> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name";
    let names: Vec<String> = sqlx::query_scalar(sql).fetch_all(pool).await.map_err(failed)?;
    let mut tables = Vec::new();
    for name in names {
        if name.starts_with(OWN_PREFIX) || name.starts_with("sqlite_") {
            continue;
        }
        if let (Ok(parsed), Some(there)) = (name.parse(), table(pool, &name).await?) {
            tables.push((parsed, there.schema()));
        }
    }
    Ok(tables)
}

async fn read_table(
    connection: &mut SqliteConnection,
    name: String,
    view: bool,
) -> Result<TableThere, sqlx::Error> {
    let made = made_as(connection, &name).await?;
    let sql = "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk, hidden \
               FROM pragma_table_xinfo(?) ORDER BY cid";
    let rows = sqlx::query(sql).bind(&name).fetch_all(&mut *connection).await?;
    let mut columns = Vec::with_capacity(rows.len());
    for row in rows {
        let column: String = row.try_get(0)?;
        let key_place: i64 = row.try_get(4)?;
        columns.push(ColumnThere {
            made_as: made.get(&column.to_lowercase()).cloned(),
            name: column,
            declared: row.try_get::<String, _>(1)?.to_uppercase(),
            nullable: row.try_get::<i64, _>(2)? == 0 && key_place == 0,
            has_default: row.try_get(3)?,
            generated: row.try_get::<i64, _>(5)? != 0,
            key_place,
        });
    }
    let sql = "SELECT name FROM pragma_index_list(?) WHERE \"unique\" = 1 AND origin <> 'pk'";
    let unique = sqlx::query_scalar(sql).bind(&name).fetch_all(&mut *connection).await?;
    let sql = "SELECT count(*) > 0 FROM pragma_index_list(?) AS l, pragma_index_xinfo(l.name) AS x \
               WHERE l.origin = 'pk' AND x.key = 1 AND x.coll <> 'BINARY'";
    let inexact_key = sqlx::query_scalar(sql).bind(&name).fetch_one(&mut *connection).await?;
    Ok(TableThere { name, view, columns, unique, inexact_key })
}

async fn made_as(
    connection: &mut SqliteConnection,
    table: &str,
) -> Result<HashMap<String, (DataType, Option<u32>)>, sqlx::Error> {
    // A file that no sink has opened yet has none: the job database, for one.
    let sql = "SELECT count(*) > 0 FROM sqlite_master WHERE name = 'tidemill_columns'";
    if !sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut *connection).await? {
        return Ok(HashMap::new());
    }
    let sql = "SELECT column_name, kind, max_length FROM tidemill_columns \
               WHERE table_name = ? COLLATE NOCASE";
    let rows = sqlx::query(sql).bind(table).fetch_all(connection).await?;
    let mut made = HashMap::new();
    for row in rows {
        let name: String = row.try_get(0)?;
        if let Some(kind) = parse_kind(&row.try_get::<String, _>(1)?) {
            made.insert(name.to_lowercase(), (kind, row.try_get(2)?));
        }
    }
    Ok(made)
}

fn failed(error: sqlx::Error) -> Error {
    from_sqlx("read the tables", error)
}
