//! What clients of Postgres write in words that the engine does not know, in its own words. Pure.
//!
//! Statements over `pg_catalog` alone go through all of the library's rules. Some of these guess: a subquery that they
//! take for correlated becomes NULL. People's own statements get only those that keep the meaning.

mod nothing;

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use datafusion::error::DataFusionError;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName,
    Statement as Sql, Value, visit_expressions_mut, visit_relations,
};
use datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use datafusion_pg_catalog::sql::rules::{
    CurrentUserVariableToSessionUserFunctionCall, FixArrayLiteral, FixVersionColumnName,
    RewriteArrayAnyAllOperation, RewritePgCatalogOperator, RewriteRegCastToSubquery, SqlStatementRewriteRule,
    StripCallableQualifier,
};

/// The schemas whose tables only describe others.
const CATALOGS: [&str; 2] = ["pg_catalog", "information_schema"];

static ALL_RULES: LazyLock<PostgresCompatibilityParser> = LazyLock::new(PostgresCompatibilityParser::new);

/// Rules that keep the meaning of any statement.
static SAFE_RULES: LazyLock<[Arc<dyn SqlStatementRewriteRule>; 7]> = LazyLock::new(|| {
    [
        Arc::new(StripCallableQualifier),
        Arc::new(RewriteArrayAnyAllOperation),
        Arc::new(FixArrayLiteral),
        Arc::new(CurrentUserVariableToSessionUserFunctionCall),
        Arc::new(RewritePgCatalogOperator),
        Arc::new(RewriteRegCastToSubquery::new()),
        Arc::new(FixVersionColumnName),
    ]
});

/// The statement in the engine's words. Its text was parsed before, so its depth is bounded.
pub(super) fn in_own_words(sql: &str, statement: Statement) -> Result<Statement, DataFusionError> {
    let Statement::Statement(parsed) = statement else {
        return Ok(statement);
    };
    let rewritten = if asks_the_catalog_alone(&parsed) {
        let again = ALL_RULES.parse(sql).map_err(|error| DataFusionError::SQL(Box::new(error), None))?;
        nothing::told(again.into_iter().next().unwrap_or(*parsed))
    } else {
        SAFE_RULES.iter().fold(*parsed, |statement, rule| rule.rewrite(statement))
    };
    Ok(Statement::Statement(Box::new(with_own_escapes(rewritten))))
}

/// `LIKE … ESCAPE '/'` with the engine's one escape, the backslash: backslashes are doubled first, and two escapes in
/// a row, which stand for one, are kept apart by a character that no text has.
fn with_own_escapes(mut statement: Sql) -> Sql {
    let _: ControlFlow<()> = visit_expressions_mut(&mut statement, |expr| {
        if let Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } = expr
            && let Some(Value::SingleQuotedString(escape)) = escape_char.as_ref().map(|escape| &escape.value)
            && escape.chars().count() == 1
            && escape != "\\"
        {
            let call = |inner: Expr, from: &str, to: &str| {
                let texts =
                    [from, to].map(|text| Expr::Value(Value::SingleQuotedString(text.to_owned()).into()));
                replace_call(inner, texts)
            };
            let inner = std::mem::replace(pattern.as_mut(), Expr::Value(Value::Null.into()));
            let doubled = call(Expr::Nested(Box::new(inner)), "\\", "\\\\");
            let apart = call(doubled, &format!("{escape}{escape}"), "\u{1}");
            **pattern = call(call(apart, escape, "\\"), "\u{1}", escape);
            *escape_char = None;
        }
        ControlFlow::Continue(())
    });
    statement
}

/// `replace(text, from, to)`.
fn replace_call(text: Expr, [from, to]: [Expr; 2]) -> Expr {
    let argument = |expr: Expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    let list = FunctionArgumentList {
        duplicate_treatment: None,
        args: [text, from, to].map(argument).into(),
        clauses: Vec::new(),
    };
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new("replace")]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn asks_the_catalog_alone(statement: &Sql) -> bool {
    let (mut any, mut all) = (false, true);
    let _ = visit_relations(statement, |name| {
        any = true;
        all &= is_of_catalog(name);
        ControlFlow::<()>::Continue(())
    });
    any && all
}

fn is_of_catalog(name: &ObjectName) -> bool {
    let parts: Vec<String> = name
        .0
        .iter()
        .filter_map(|part| part.as_ident())
        .map(|ident| ident.value.to_ascii_lowercase())
        .collect();
    match parts.as_slice() {
        [.., schema, _] => CATALOGS.contains(&schema.as_str()),
        [table] => table.starts_with("pg_"),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;

    use super::*;

    fn rewritten(sql: &str) -> String {
        let statement =
            DFParser::parse_sql_with_dialect(sql, &PostgreSqlDialect {}).unwrap().pop_front().unwrap();
        in_own_words(sql, statement).unwrap().to_string()
    }

    #[test]
    fn a_subquery_of_a_persons_own_is_left_as_it_is() {
        let sql = "SELECT (SELECT max(b.x) FROM b WHERE b.y = a.y) FROM a";
        assert_eq!(rewritten(sql), sql);
        let sql = "SELECT (SELECT max(b.x) FROM b) FROM a, pg_catalog.pg_class";
        assert_eq!(rewritten(sql), sql);
    }

    #[test]
    fn words_of_postgres_are_turned_into_the_engines() {
        assert_eq!(rewritten("SELECT pg_catalog.version()"), "SELECT version() AS version");
        assert_eq!(rewritten("SELECT current_schema"), "SELECT current_schema()");
        assert!(rewritten("SELECT a FROM t WHERE a = ANY(ARRAY[1, 2])").contains("array_contains"));
    }

    #[test]
    fn another_escape_becomes_the_engines_own() {
        let found = rewritten("SELECT a FROM t WHERE a NOT LIKE $1 || '%' ESCAPE '/'");
        assert!(found.contains("NOT LIKE replace(") && !found.contains("ESCAPE"), "{found}");
        let sql = "SELECT a FROM t WHERE a LIKE 'x%'";
        assert_eq!(rewritten(sql), sql);
    }

    #[test]
    fn statements_over_the_catalog_alone_get_all_rules() {
        let sql = "SELECT (SELECT d.x FROM pg_attrdef d WHERE d.y = a.y) FROM pg_attribute a";
        assert!(rewritten(sql).starts_with("SELECT NULL"), "{}", rewritten(sql));
    }
}
