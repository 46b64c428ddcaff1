//! What drivers ask of the catalog of PostgreSQL about things that are not here: indexes, constraints, sequences,
//! defaults. They ask in ways that the engine cannot plan, and the answer is known: nothing. Pure.
//!
//! For statements over the catalog alone: a SELECT from such a table gives no rows, a subquery that depends on the row
//! around it gives NULL, and so does a column that the catalog lacks.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArguments, GroupByExpr, Ident, Join, JoinOperator, Query, Select, SelectItem, SetExpr,
    Statement, TableFactor, TableWithJoins, Value, VisitMut, VisitorMut, visit_expressions,
};

/// Tables of the catalog without a row about anything that a user sees.
const EMPTY: [&str; 16] = [
    "pg_attrdef",
    "pg_constraint",
    "pg_depend",
    "pg_enum",
    "pg_event_trigger",
    "pg_foreign_table",
    "pg_index",
    "pg_inherits",
    "pg_partitioned_table",
    "pg_policy",
    "pg_publication_rel",
    "pg_rewrite",
    "pg_sequence",
    "pg_statistic_ext",
    "pg_subscription",
    "pg_trigger",
];
/// Columns that the catalog lacks; in PostgreSQL they are null, but where someone set them.
const MISSING: [&str; 3] = ["reloptions", "relacl", "spcoptions"];
/// Functions that make one row of none.
const AGGREGATES: [&str; 9] =
    ["count", "min", "max", "sum", "avg", "array_agg", "string_agg", "bool_and", "bool_or"];

/// Puts nothing in the place of what is not here.
pub(super) fn told(mut statement: Statement) -> Statement {
    let _ = statement.visit(&mut Nothing);
    statement
}

struct Nothing;

impl VisitorMut for Nothing {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = query.body.as_mut() {
            name_columns(select);
            if gives_no_rows(select) {
                **select = without_rows(select);
                query.order_by = None;
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let nothing = match expr {
            Expr::Subquery(query) => depends_on_the_row(query),
            Expr::CompoundIdentifier(parts) => parts.last().is_some_and(is_missing),
            Expr::Identifier(name) => is_missing(name),
            _ => false,
        };
        if nothing {
            *expr = null();
        }
        ControlFlow::Continue(())
    }
}

fn null() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

fn is_missing(name: &Ident) -> bool {
    MISSING.contains(&name.value.as_str())
}

/// A column that becomes NULL keeps its name.
fn name_columns(select: &mut Select) {
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr @ (Expr::CompoundIdentifier(_) | Expr::Identifier(_))) = item {
            let name = column_name(expr).filter(is_missing);
            if let Some(alias) = name {
                *item = SelectItem::ExprWithAlias { expr: null(), alias };
            }
        }
    }
}

fn column_name(expr: &Expr) -> Option<Ident> {
    match expr {
        Expr::Identifier(name) => Some(name.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().cloned(),
        Expr::Function(function) => function.name.0.last()?.as_ident().cloned(),
        Expr::Cast { expr, .. } => column_name(expr),
        _ => None,
    }
}

fn gives_no_rows(select: &Select) -> bool {
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
    let wildcard =
        |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    select.from.iter().any(joins_nothing)
        && (grouped || !select.projection.iter().any(aggregates))
        && !select.projection.iter().any(wildcard)
}

fn aggregates(item: &SelectItem) -> bool {
    let found =
        visit_expressions(item, |expr| match expr {
            Expr::Function(function)
                if !matches!(function.args, FunctionArguments::Subquery(_))
                    && function.name.0.last().and_then(|part| part.as_ident()).is_some_and(|name| {
                        AGGREGATES.contains(&name.value.to_ascii_lowercase().as_str())
                    }) =>
            {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
    found.is_break()
}

/// Whether a part of FROM is empty because one side of an inner join is.
fn joins_nothing(from: &TableWithJoins) -> bool {
    let outer = |join: &Join| {
        matches!(
            join.join_operator,
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_)
        )
    };
    let inner = |join: &Join| {
        matches!(
            join.join_operator,
            JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)
        )
    };
    let side = |join: &Join| inner(join) && is_nothing(&join.relation);
    !from.joins.iter().any(outer) && (is_nothing(&from.relation) || from.joins.iter().any(side))
}

fn is_nothing(table: &TableFactor) -> bool {
    match table {
        TableFactor::Table { name, .. } => name
            .0
            .last()
            .and_then(|part| part.as_ident())
            .is_some_and(|name| EMPTY.contains(&name.value.to_ascii_lowercase().as_str())),
        TableFactor::Derived { subquery, .. } => {
            matches!(subquery.body.as_ref(), SetExpr::Select(select) if gives_no_rows(select))
        }
        TableFactor::NestedJoin { table_with_joins, .. } => joins_nothing(table_with_joins),
        _ => false,
    }
}

/// The same columns, and no row.
fn without_rows(select: &Select) -> Select {
    let column = |(at, item): (usize, &SelectItem)| {
        let alias = match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(alias.clone()),
            SelectItem::UnnamedExpr(expr) => column_name(expr),
            _ => None,
        };
        SelectItem::ExprWithAlias {
            expr: null(),
            alias: alias.unwrap_or_else(|| Ident::new(format!("column{at}"))),
        }
    };
    Select {
        distinct: None,
        projection: select.projection.iter().enumerate().map(column).collect(),
        from: Vec::new(),
        selection: Some(Expr::Value(Value::Boolean(false).with_empty_span())),
        group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
        having: None,
        ..select.clone()
    }
}

/// Whether a subquery names a table that is not its own.
fn depends_on_the_row(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let mut own = Vec::new();
    for from in &select.from {
        own.extend(name_of(&from.relation));
        own.extend(from.joins.iter().filter_map(|join| name_of(&join.relation)));
    }
    let found = visit_expressions(query, |expr| match expr {
        Expr::CompoundIdentifier(parts)
            if parts.len() > 1 && !own.iter().any(|name| *name == parts[parts.len() - 2].value) =>
        {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

fn name_of(table: &TableFactor) -> Option<String> {
    match table {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Some(alias.name.value.clone())
        }
        TableFactor::Table { name, .. } => Some(name.0.last()?.as_ident()?.value.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn rewritten(sql: &str) -> String {
        told(Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0)).to_string()
    }

    #[test]
    fn what_is_not_here_gives_no_rows_and_keeps_its_columns() {
        for (sql, expected) in [
            (
                "SELECT i.a, unnest(i.b) AS c, f(x) FROM pg_catalog.pg_index i JOIN pg_class c ON true ORDER BY 1",
                "SELECT NULL AS a, NULL AS c, NULL AS f WHERE false",
            ),
            (
                "SELECT x.a, array_agg(x.b) AS b FROM (SELECT a, b FROM pg_constraint) AS x GROUP BY x.a",
                "SELECT NULL AS a, NULL AS b WHERE false",
            ),
            ("SELECT c.reloptions FROM pg_class c", "SELECT NULL AS reloptions FROM pg_class c"),
            (
                "SELECT CASE WHEN a.b THEN (SELECT d.x FROM pg_attrdef d WHERE d.y = a.y) END AS d FROM pg_attribute a",
                "SELECT CASE WHEN a.b THEN NULL END AS d FROM pg_attribute a",
            ),
        ] {
            assert_eq!(rewritten(sql), expected);
        }
    }

    #[test]
    fn what_may_give_rows_is_left_as_it_is() {
        for sql in [
            "SELECT c.oid FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid",
            "SELECT count(*) FROM pg_index",
            "SELECT i.x FROM pg_index i RIGHT JOIN pg_class c ON true",
            "SELECT oid FROM pg_class WHERE relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = 'public')",
        ] {
            assert_eq!(rewritten(sql), sql);
        }
    }
}
