//! What a text of SQL asks of the session itself: it is cut into statements, and those that are no queries are told
//! apart by their first words. Everything else is a query, which a worker looks at.
//!
//! Pure. The cutting is done on tokens, so that a semicolon in a text, a name or a comment cuts nothing.

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::refusal::{Refusal, code};

/// Most statements in one message.
const STATEMENTS_MAX: usize = 100;

/// One statement of a text.
#[derive(Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) sql: String,
    /// Characters of the text before it, for positions in errors.
    pub(super) offset: usize,
    pub(super) command: Command,
    /// The highest number of a parameter that it names.
    pub(super) places: usize,
}

/// What a statement is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    /// For a worker.
    Query,
    Begin,
    Commit,
    Rollback,
    /// `SAVEPOINT`, `RELEASE`: nothing to do, answered with this word.
    Nothing(&'static str),
    RollbackTo,
    Set {
        name: String,
        value: String,
    },
    /// All when empty.
    Reset(String),
    Show(String),
    Discard,
    /// All when empty.
    Deallocate(String),
}

impl Piece {
    /// A line and column of this statement as a place in the whole text, in characters from 1.
    pub(super) fn position(&self, line: u64, column: u64) -> usize {
        self.offset + position(&self.sql, line, column)
    }
}

/// Cuts a text. Refused are what is no SQL, and statements that a reader may not have.
pub(super) fn cut(sql: &str) -> Result<Vec<Piece>, Refusal> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location().map_err(|error| {
        let at = position(sql, error.location.line, error.location.column);
        Refusal::new(code::SYNTAX, error.message).at(at)
    })?;
    let mut pieces = Vec::new();
    for tokens in tokens.split(|token| token.token == Token::SemiColon) {
        let words: Vec<&TokenWithSpan> =
            tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
        let (Some(first), Some(last)) = (words.first(), words.last()) else { continue };
        let start = position(sql, first.span.start.line, first.span.start.column) - 1;
        let end = position(sql, last.span.end.line, last.span.end.column) - 1;
        let tokens: Vec<&Token> = words.iter().map(|word| &word.token).collect();
        let sql = sql.chars().skip(start).take(end - start).collect();
        pieces.push(Piece { sql, offset: start, command: command(&tokens)?, places: places(&tokens) });
        if pieces.len() > STATEMENTS_MAX {
            let message = format!("more than {STATEMENTS_MAX} statements in one message");
            return Err(Refusal::new(code::LIMIT, message));
        }
    }
    Ok(pieces)
}

/// The place of a line and column, in characters from 1.
fn position(sql: &str, line: u64, column: u64) -> usize {
    let before = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let lines: usize = sql.split_inclusive('\n').take(before).map(|line| line.chars().count()).sum();
    lines + usize::try_from(column).unwrap_or(1).max(1)
}

fn places(tokens: &[&Token]) -> usize {
    let number = |token: &&Token| match token {
        Token::Placeholder(name) => name.strip_prefix('$').and_then(|digits| digits.parse::<u16>().ok()),
        _ => None,
    };
    tokens.iter().filter_map(number).max().map_or(0, usize::from)
}

/// A token as text: a word or a number as it is, a text or a quoted name without its quotes.
fn plain(token: &Token) -> String {
    match token {
        Token::Word(word) => word.value.clone(),
        Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
        token => token.to_string(),
    }
}

fn command(tokens: &[&Token]) -> Result<Command, Refusal> {
    let words: Vec<String> = tokens.iter().take(5).map(|token| plain(token).to_ascii_lowercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let rest = |skip: usize| tokens.iter().skip(skip).map(|token| plain(token)).collect::<Vec<_>>().join(" ");
    Ok(match words.as_slice() {
        ["begin", ..] | ["start", "transaction", ..] => Command::Begin,
        ["commit" | "rollback", "prepared", ..] | ["prepare", "transaction", ..] => {
            return Err(unsupported("transactions in two phases are"));
        }
        ["commit" | "end", ..] => Command::Commit,
        ["rollback", "to", ..] | ["rollback", "transaction" | "work", "to", ..] => Command::RollbackTo,
        ["rollback" | "abort", ..] => Command::Rollback,
        ["savepoint", ..] => Command::Nothing("SAVEPOINT"),
        ["release", ..] => Command::Nothing("RELEASE"),
        ["set", ..] => set(tokens, &words)?,
        ["reset", "all"] => Command::Reset(String::new()),
        ["reset", name] => Command::Reset((*name).to_owned()),
        // These the engine answers.
        ["show", "tables" | "columns" | "functions", ..] => Command::Query,
        ["show", "transaction", "isolation", ..] => Command::Show("transaction_isolation".to_owned()),
        ["show", "time", "zone"] => Command::Show("timezone".to_owned()),
        ["show", name] => Command::Show((*name).to_owned()),
        ["discard", ..] => Command::Discard,
        ["deallocate", "prepare", _] => deallocate(rest(2)),
        ["deallocate", _] => deallocate(rest(1)),
        ["copy", ..] => {
            let refusal = unsupported("COPY is");
            return Err(refusal.hint("psql: \\pset format csv and \\o write an answer to a file"));
        }
        ["prepare" | "execute", ..] => {
            return Err(unsupported("PREPARE and EXECUTE as SQL are").hint("clients prepare by the protocol"));
        }
        ["declare" | "fetch" | "move" | "close", ..] => {
            return Err(unsupported("cursors as SQL are").hint("clients fetch in parts by the protocol"));
        }
        ["listen" | "unlisten" | "notify" | "lock" | "call" | "do" | "load", ..] => {
            return Err(unsupported(&format!("{} is", words[0].to_ascii_uppercase())));
        }
        [
            verb @ ("insert" | "update" | "delete" | "merge" | "truncate" | "create" | "alter" | "drop"
            | "grant" | "revoke" | "comment" | "vacuum" | "analyze" | "reindex" | "cluster"
            | "refresh" | "import" | "security" | "reassign" | "checkpoint"),
            ..,
        ] => {
            let message = format!("cannot execute {} in a read-only transaction", verb.to_ascii_uppercase());
            return Err(Refusal::new(code::READ_ONLY, message).hint("rows come in through pipelines only"));
        }
        _ => Command::Query,
    })
}

fn deallocate(name: String) -> Command {
    Command::Deallocate(if name.eq_ignore_ascii_case("all") { String::new() } else { name })
}

fn unsupported(what: &str) -> Refusal {
    Refusal::new(code::UNSUPPORTED, format!("{what} not offered here"))
}

/// `SET [SESSION | LOCAL] name {TO | =} value`, `SET TIME ZONE value`, `SET … TRANSACTION …`.
fn set(tokens: &[&Token], words: &[&str]) -> Result<Command, Refusal> {
    let skip = if matches!(words.get(1), Some(&"session" | &"local")) { 2 } else { 1 };
    let words = &words[skip.min(words.len())..];
    let value = |from: usize| -> String {
        let texts: Vec<String> = tokens.iter().skip(skip + from).map(|token| plain(token)).collect();
        texts.join(" ").replace(" , ", ", ")
    };
    match words {
        ["time", "zone", ..] => Ok(Command::Set { name: "timezone".to_owned(), value: value(2) }),
        ["names", ..] => Ok(Command::Set { name: "client_encoding".to_owned(), value: value(1) }),
        // Every statement reads on its own and nothing is written, whatever is asked for.
        ["transaction" | "characteristics", ..] => Ok(Command::Nothing("SET")),
        ["role" | "authorization", ..] => Err(unsupported("another role is")),
        [name, "to" | "=", ..] => Ok(Command::Set { name: (*name).to_owned(), value: value(2) }),
        [name, ".", part, ..] => Ok(Command::Set { name: format!("{name}.{part}"), value: value(4) }),
        _ => Err(Refusal::new(code::SYNTAX, "SET is written as: SET name TO value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(sql: &str) -> Vec<Command> {
        cut(sql).unwrap().into_iter().map(|piece| piece.command).collect()
    }

    #[test]
    fn a_text_is_cut_at_semicolons_that_are_none_of_a_literal_or_a_comment() {
        let pieces = cut("SELECT ';', \";\" -- ;\n/* ; */ ;;\n  SELECT $$;$$ ; ").unwrap();
        let found: Vec<_> = pieces.iter().map(|piece| (piece.sql.as_str(), piece.offset)).collect();
        assert_eq!(found, [("SELECT ';', \";\"", 0), ("SELECT $$;$$", 34)]);
        assert_eq!(cut(" -- nothing\n ;").unwrap(), []);
    }

    #[test]
    fn commands_of_the_session_are_told_from_queries() {
        let set = |name: &str, value: &str| Command::Set { name: name.into(), value: value.into() };
        for (sql, command) in [
            ("BEGIN READ ONLY", Command::Begin),
            ("start transaction", Command::Begin),
            ("END", Command::Commit),
            ("abort", Command::Rollback),
            ("ROLLBACK TO SAVEPOINT a", Command::RollbackTo),
            ("SAVEPOINT a", Command::Nothing("SAVEPOINT")),
            ("SET statement_timeout = 500", set("statement_timeout", "500")),
            ("SET SESSION statement_timeout TO '5s'", set("statement_timeout", "5s")),
            ("SET DateStyle TO ISO, MDY", set("datestyle", "ISO, MDY")),
            ("SET TIME ZONE 'UTC'", set("timezone", "UTC")),
            ("SET NAMES 'utf8'", set("client_encoding", "utf8")),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Command::Nothing("SET")),
            ("SHOW transaction isolation level", Command::Show("transaction_isolation".into())),
            ("show Server_Version", Command::Show("server_version".into())),
            ("SHOW TABLES", Command::Query),
            ("RESET ALL", Command::Reset(String::new())),
            ("DEALLOCATE ALL", Command::Deallocate(String::new())),
            ("DEALLOCATE \"_pg3_0\"", Command::Deallocate("_pg3_0".into())),
            ("DISCARD ALL", Command::Discard),
            ("WITH a AS (SELECT 1) SELECT * FROM a", Command::Query),
            ("(SELECT 1)", Command::Query),
        ] {
            assert_eq!(commands(sql), [command], "{sql}");
        }
    }

    #[test]
    fn what_a_reader_may_not_have_is_refused_with_its_code() {
        for (sql, code) in [
            ("INSERT INTO a VALUES (1)", code::READ_ONLY),
            ("/* hidden */ dRoP TABLE a", code::READ_ONLY),
            ("CREATE TABLE a (b int)", code::READ_ONLY),
            ("COPY a TO STDOUT", code::UNSUPPORTED),
            ("PREPARE a AS SELECT 1", code::UNSUPPORTED),
            ("DECLARE a CURSOR FOR SELECT 1", code::UNSUPPORTED),
            ("SET ROLE other", code::UNSUPPORTED),
            ("SET nothing", code::SYNTAX),
            ("SELECT 'no end", code::SYNTAX),
            ("SELECT 1; DELETE FROM a", code::READ_ONLY),
        ] {
            assert_eq!(cut(sql).unwrap_err().code, code, "{sql}");
        }
        assert_eq!(cut(&"SELECT 1;".repeat(STATEMENTS_MAX + 1)).unwrap_err().code, code::LIMIT);
        assert_eq!(cut("SELECT\n 1, 'no end").unwrap_err().position, Some(12));
    }
}
