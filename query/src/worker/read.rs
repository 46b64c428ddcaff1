//! A statement as text: its words with their places, and the refusals that need no catalog. What may do more than read
//! is refused by what it is, before anything is planned. Pure.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{self, visit_relations};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, PostgreSqlDialect};
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::dialect::in_own_words;
use super::problem::lowered;
use crate::limits::{NESTING_MAX, OPERATORS_MAX, RELATIONS_MAX};
use crate::{Code, Flavour, Position, Refusal};

/// Words that join two parts into one level of the tree, as signs do.
const JOINING: [&str; 13] =
    ["AND", "OR", "NOT", "XOR", "UNION", "INTERSECT", "EXCEPT", "JOIN", "LIKE", "ILIKE", "IS", "WHEN", "DIV"];

/// A statement that was read and may go on.
pub(super) struct Text {
    pub(super) statement: Statement,
    words: Words,
}

/// The words of a statement, to find places.
pub(super) struct Words(Vec<TokenWithSpan>);

impl Text {
    /// Reads one statement that only reads.
    pub(super) fn read(sql: &str, flavour: &Flavour) -> Result<Self, Refusal> {
        let dialect: &dyn Dialect = match flavour {
            Flavour::Plain => &GenericDialect {},
            Flavour::Postgres { .. } => &PostgreSqlDialect {},
        };
        let words = Words::read(sql, dialect)?;
        words.check_operators()?;
        let parser =
            DFParserBuilder::new(words.0.clone()).with_dialect(dialect).with_recursion_limit(NESTING_MAX);
        let parsed = parser.build().and_then(|mut parser| parser.parse_statements());
        let mut statement = words.only(parsed.map_err(|error| not_sql(&error))?)?;
        if matches!(flavour, Flavour::Postgres { .. }) {
            statement = in_own_words(sql, statement).map_err(|error| not_sql(&error))?;
        }
        if !only_reads(&statement) {
            let verb = words.first().to_uppercase();
            let message = format!("{verb} is not allowed: a statement may only read");
            return Err(Refusal::new(Code::NotAllowed, message).at(words.place(0)));
        }
        check_relations(&statement)?;
        Ok(Self { statement, words })
    }

    /// Where a name stands for the first time.
    pub(super) fn find(&self, name: &str) -> Option<Position> {
        self.words.find(name)
    }

    /// Whether the statement is an EXPLAIN, which has to stay the root of its plan.
    pub(super) fn explains(&self) -> bool {
        matches!(&self.statement, Statement::Explain(_))
            || matches!(&self.statement, Statement::Statement(s) if matches!(**s, ast::Statement::Explain { .. }))
    }
}

impl Words {
    fn read(sql: &str, dialect: &dyn Dialect) -> Result<Self, Refusal> {
        let tokens = Tokenizer::new(dialect, sql).tokenize_with_location();
        let mut tokens = tokens.map_err(|error| {
            Refusal::new(Code::Syntax, lowered(&error.message)).at(position(error.location))
        })?;
        tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
        Ok(Self(tokens))
    }

    fn first(&self) -> String {
        self.0.first().map(|token| token.token.to_string()).unwrap_or_default()
    }

    fn place(&self, index: usize) -> Option<Position> {
        self.0.get(index).and_then(|token| position(token.span.start))
    }

    /// Where a name stands for the first time; of `table.column` the column is looked for.
    fn find(&self, name: &str) -> Option<Position> {
        let last = name.rsplit('.').next().unwrap_or(name);
        let found = |name: &str| {
            self.0.iter().find(|token| match &token.token {
                Token::Word(word) => word.value.eq_ignore_ascii_case(name),
                Token::SingleQuotedString(text) => text == name,
                _ => false,
            })
        };
        found(name).or_else(|| found(last)).and_then(|token| position(token.span.start))
    }

    /// Each sign and each joining word may be a level of recursion; the sign of a number is none.
    fn check_operators(&self) -> Result<(), Refusal> {
        let mut count = 0;
        let mut before = None;
        for token in &self.0 {
            count += usize::from(is_operator(&token.token, before));
            before = Some(&token.token);
            if count > OPERATORS_MAX {
                let message = format!(
                    "the statement has more than {OPERATORS_MAX} operators; write long lists as `x IN (…)`"
                );
                return Err(Refusal::new(Code::TooComplex, message).at(position(token.span.start)));
            }
        }
        Ok(())
    }

    /// The one statement.
    fn only(&self, mut statements: VecDeque<Statement>) -> Result<Statement, Refusal> {
        match (statements.pop_front(), statements.is_empty()) {
            (Some(statement), true) => Ok(statement),
            (None, _) => Err(Refusal::new(Code::Syntax, "there is no statement")),
            (Some(_), false) => {
                let end = self.0.iter().position(|token| token.token == Token::SemiColon);
                let place = end.and_then(|end| self.place(end + 1));
                Err(Refusal::new(Code::NotAllowed, "only one statement is answered at a time").at(place))
            }
        }
    }
}

fn is_operator(token: &Token, before: Option<&Token>) -> bool {
    match token {
        Token::Word(word) => {
            word.quote_style.is_none()
                && JOINING.iter().any(|joining| word.value.eq_ignore_ascii_case(joining))
        }
        Token::Minus | Token::Plus => !matches!(before, None | Some(Token::Comma | Token::LParen)),
        Token::Number(..) | Token::Char(_) | Token::Placeholder(_) => false,
        Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) => false,
        Token::Comma | Token::LParen | Token::RParen | Token::SemiColon | Token::Period | Token::EOF => false,
        _ => true,
    }
}

/// The statements that give rows and change nothing.
fn only_reads(statement: &Statement) -> bool {
    use ast::Statement as Sql;
    let sql_only_reads = |statement: &Sql| {
        matches!(
            statement,
            Sql::Query(_)
                | Sql::ExplainTable { .. }
                | Sql::ShowTables { .. }
                | Sql::ShowColumns { .. }
                | Sql::ShowSchemas { .. }
                | Sql::ShowFunctions { .. }
                | Sql::ShowVariable { .. }
        )
    };
    match statement {
        Statement::Statement(statement) => match statement.as_ref() {
            Sql::Explain { statement, .. } => sql_only_reads(statement),
            other => sql_only_reads(other),
        },
        Statement::Explain(explain) => only_reads(&explain.statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => false,
    }
}

fn check_relations(statement: &Statement) -> Result<(), Refusal> {
    let mut count = 0;
    if let Statement::Statement(statement) = statement {
        let counted: ControlFlow<()> = visit_relations(statement, |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        debug_assert!(counted.is_continue());
    }
    if count > RELATIONS_MAX {
        let message = format!("the statement names {count} tables, the most are {RELATIONS_MAX}");
        return Err(Refusal::new(Code::TooComplex, message));
    }
    Ok(())
}

/// What the parser says, with its place as a place.
fn not_sql(error: &DataFusionError) -> Refusal {
    let error = match error.find_root() {
        DataFusionError::SQL(error, _) => error,
        other => return Refusal::new(Code::Syntax, lowered(&other.strip_backtrace())),
    };
    match error.as_ref() {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => {
            let (words, place) = split_place(text);
            Refusal::new(Code::Syntax, lowered(words)).at(place)
        }
        ParserError::RecursionLimitExceeded => {
            let message = format!("the statement is nested more than {NESTING_MAX} levels deep");
            Refusal::new(Code::TooComplex, message)
        }
    }
}

/// `… at Line: 1, Column: 8`, as the parser writes it.
fn split_place(text: &str) -> (&str, Option<Position>) {
    let split = || {
        let (words, place) = text.rsplit_once(" at Line: ")?;
        let (line, column) = place.split_once(", Column: ")?;
        Some((words, Position { line: line.parse().ok()?, column: column.trim().parse().ok()? }))
    };
    split().map_or((text, None), |(words, place)| (words, Some(place)))
}

fn position(at: Location) -> Option<Position> {
    (at.line > 0).then_some(Position { line: at.line, column: at.column })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(sql: &str) -> Refusal {
        match Text::read(sql, &Flavour::Plain) {
            Err(refusal) => refusal,
            Ok(_) => panic!("`{sql}` was taken"),
        }
    }

    #[test]
    fn what_may_do_more_than_read_is_refused_by_its_first_word() {
        for sql in [
            "INSERT INTO t VALUES (1)",
            "UPDATE t SET a = 1",
            "DELETE FROM t",
            "CREATE TABLE t (a INT)",
            "CREATE TABLE t AS SELECT 1",
            "CREATE VIEW v AS SELECT 1",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "DROP TABLE t",
            "COPY (SELECT 1) TO '/tmp/x.csv'",
            "SET datafusion.execution.batch_size = 1",
            "RESET datafusion.execution.batch_size",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "BEGIN",
            "COMMIT",
            "EXPLAIN INSERT INTO t VALUES (1)",
            "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/x.csv'",
            "TRUNCATE TABLE t",
            "CREATE FUNCTION f() RETURNS INT RETURN 1",
        ] {
            let refused = refusal(sql);
            assert_eq!(refused.code, Code::NotAllowed, "{sql}: {refused}");
            let first = sql.split_whitespace().next().unwrap();
            assert!(refused.message.starts_with(first), "{sql}: {refused}");
        }
        for sql in [
            "SELECT 1;",
            "(SELECT 1)",
            "VALUES (1)",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "EXPLAIN SELECT 1",
            "SHOW TABLES",
            "DESCRIBE t",
            "-- why\nSELECT 1",
        ] {
            assert!(Text::read(sql, &Flavour::Plain).is_ok(), "{sql}");
        }
    }

    #[test]
    fn a_wrong_text_is_told_with_its_place() {
        for (sql, code, line, column) in [
            ("SELECT 1\n  WHERE = 2", Code::Syntax, 2, 9),
            ("SELECT 'open", Code::Syntax, 1, 8),
            ("SELECT 1; DROP TABLE t", Code::NotAllowed, 1, 11),
        ] {
            let refused = refusal(sql);
            assert_eq!(refused.code, code, "{refused}");
            assert_eq!(refused.position, Some(Position { line, column }), "{sql}: {refused}");
        }
        assert_eq!(refusal("  -- nothing").code, Code::Syntax);
    }

    #[test]
    fn what_is_too_deep_or_too_long_a_chain_is_refused_before_it_is_planned() {
        let deep = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
        let chain = format!("SELECT 1 WHERE {}", vec!["1=1"; 2_000].join(" OR "));
        let signs = format!("SELECT {}1", "- ".repeat(5_000));
        let unions = vec!["SELECT 1"; 2_000].join(" UNION ");
        let tables = format!("SELECT 1 FROM {}", vec!["t"; 200].join(","));
        for sql in [deep, chain, signs, unions, tables] {
            let refused = refusal(&sql);
            assert_eq!(refused.code, Code::TooComplex, "{refused}");
        }
        let list = (0..5_000).map(|n| format!("-{n}")).collect::<Vec<_>>().join(",");
        assert!(Text::read(&format!("SELECT 1 WHERE 1 IN ({list})"), &Flavour::Plain).is_ok());
    }
}
