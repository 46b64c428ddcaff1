//! What stands in the database: tables, columns and keys as information_schema tells them, and as Arrow types.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use mysql_async::Value;
use tidemill_pipelines::{ColumnName, TableName};

use super::session::{Session, number, text};
use crate::Result;

/// Tidemill's own tables begin so; they are not listed.
pub(crate) const OWN_PREFIX: &str = "tidemill_";

/// A column as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct ColumnThere {
    pub(crate) name: String,
    /// `varchar`, without length.
    pub(crate) data_type: String,
    /// `varchar(200)`, `bigint(20) unsigned`.
    pub(crate) column_type: String,
    pub(crate) nullable: bool,
    pub(crate) has_default: bool,
    pub(crate) generated: bool,
    /// It counts rows, unseen: a key that Tidemill made, or MySQL by `sql_generate_invisible_primary_key`.
    pub(crate) counts_rows: bool,
    pub(crate) charset: String,
    pub(crate) collation: String,
    pub(crate) length: Option<u64>,
    pub(crate) precision: Option<u64>,
    pub(crate) scale: Option<u64>,
    pub(crate) fraction: Option<u64>,
}

/// A table as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableThere {
    pub(crate) name: String,
    pub(crate) engine: String,
    pub(crate) view: bool,
    pub(crate) columns: Vec<ColumnThere>,
    /// Names and columns of unique indexes; the primary key is named `PRIMARY`.
    pub(crate) unique: Vec<(String, Vec<String>)>,
}

impl TableThere {
    /// The columns that Arrow has a type for, without an unseen key.
    pub(crate) fn schema(&self) -> SchemaRef {
        let fields = self.columns.iter().filter(|c| !c.counts_rows).filter_map(ColumnThere::field);
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

impl ColumnThere {
    fn field(&self) -> Option<Field> {
        let _: ColumnName = self.name.parse().ok()?;
        Some(Field::new(&self.name, self.arrow_type()?, self.nullable))
    }

    /// The Arrow type that holds every value of the column, `None` when there is none among ours.
    pub(crate) fn arrow_type(&self) -> Option<DataType> {
        let unsigned = self.column_type.contains("unsigned");
        Some(match self.data_type.as_str() {
            "tinyint" if self.column_type == "tinyint(1)" => DataType::Boolean,
            "bigint" if unsigned => DataType::Decimal128(20, 0),
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => DataType::Int64,
            "float" | "double" => DataType::Float64,
            "decimal" => {
                let precision = u8::try_from(self.precision?).ok().filter(|p| *p <= 38)?;
                DataType::Decimal128(precision, i8::try_from(self.scale?).ok()?)
            }
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "json" | "enum"
            | "set" => DataType::Utf8,
            "date" => DataType::Date32,
            "datetime" | "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            _ => return None,
        })
    }
}

/// One table, `None` when there is none of that name.
pub(crate) async fn table(session: &mut Session, name: &str) -> Result<Option<TableThere>> {
    let mut found = read(session, Some(name)).await?;
    let exact = session.exact_names;
    found.retain(|t| if exact { t.name == name } else { t.name.eq_ignore_ascii_case(name) });
    let Some(mut there) = found.pop() else {
        return Ok(None);
    };
    there.unique = unique_indexes(session, &there.name).await?;
    Ok(Some(there))
}

/// All tables whose names Tidemill can speak, without its own.
pub(crate) async fn tables(session: &mut Session) -> Result<Vec<(TableName, SchemaRef)>> {
    let found = read(session, None).await?;
    let named = found.into_iter().filter(|t| !t.view && !t.name.starts_with(OWN_PREFIX));
    Ok(named.filter_map(|t| Some((t.name.parse().ok()?, t.schema()))).collect())
}

/// One table is asked for by its name on each side and not joined by it: only so does MariaDB open this table
/// alone instead of all there are (0.3 and 20 ms in a schema of 30).
async fn read(session: &mut Session, name: Option<&str>) -> Result<Vec<TableThere>> {
    let (names, values) = match name {
        Some(name) => ("t.table_name = ? AND c.table_name = ?", vec![name.into(), name.into()]),
        None => ("c.table_name = t.table_name", Vec::new()),
    };
    let sql = format!(
        "SELECT t.table_name, t.engine, t.table_type, c.column_name, c.data_type, \
         c.column_type, c.is_nullable, c.column_default, c.extra, c.character_set_name, \
         c.collation_name, c.character_maximum_length, c.numeric_precision, \
         c.numeric_scale, c.datetime_precision \
         FROM information_schema.tables t, information_schema.columns c \
         WHERE t.table_schema = DATABASE() AND c.table_schema = DATABASE() AND {names} \
         AND BINARY c.table_name = BINARY t.table_name \
         ORDER BY t.table_name, c.ordinal_position"
    );
    let rows = session.rows("read the tables", &sql, values).await?;
    let mut tables: Vec<TableThere> = Vec::new();
    for row in rows {
        let value = |index: usize| row.get(index).and_then(text).unwrap_or_default();
        let name = value(0);
        if tables.last().is_none_or(|table| table.name != name) {
            let view = value(2) != "BASE TABLE";
            tables.push(TableThere { name, engine: value(1), view, ..TableThere::default() });
        }
        if let Some(table) = tables.last_mut() {
            table.columns.push(column(&row));
        }
    }
    Ok(tables)
}

fn column(row: &[Value]) -> ColumnThere {
    let value = |index: usize| row.get(index).and_then(text).unwrap_or_default();
    let count = |index: usize| row.get(index).and_then(number);
    let extra = value(8).to_lowercase();
    // MySQL says DEFAULT_GENERATED of a column whose default is an expression: that is no generated column.
    let generated = extra.contains("virtual") || extra.contains("stored generated");
    ColumnThere {
        name: value(3),
        data_type: value(4).to_lowercase(),
        column_type: value(5).to_lowercase(),
        nullable: value(6) == "YES",
        has_default: row.get(7).is_some_and(|v| *v != Value::NULL) || extra.contains("auto_increment"),
        generated,
        counts_rows: extra.contains("auto_increment") && extra.contains("invisible"),
        charset: value(9),
        collation: value(10),
        length: count(11),
        precision: count(12),
        scale: count(13),
        fraction: count(14),
    }
}

async fn unique_indexes(session: &mut Session, table: &str) -> Result<Vec<(String, Vec<String>)>> {
    let sql = "SELECT index_name, column_name, table_name FROM information_schema.statistics \
               WHERE table_schema = DATABASE() AND table_name = ? AND non_unique = 0 \
               ORDER BY index_name, seq_in_index";
    let rows = session.rows("read the keys", sql, vec![Value::from(table)]).await?;
    let mut indexes: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let value = |index: usize| row.get(index).and_then(text).unwrap_or_default();
        if value(2) != table {
            continue;
        }
        let name = value(0);
        if indexes.last().is_none_or(|(last, _)| *last != name) {
            indexes.push((name, Vec::new()));
        }
        if let Some((_, columns)) = indexes.last_mut() {
            columns.push(value(1));
        }
    }
    Ok(indexes)
}
