//! A session after the login: message after message, each answered before the next is read.
//!
//! A statement ends early when another connection cancels it, its time is over, or its client goes; the worker that
//! runs it is then killed. Transactions are words only: nothing is written, and each statement reads on its own.

use std::collections::HashMap;
use std::sync::Arc;

use pgwire::messages::PgWireBackendMessage as Reply;
use pgwire::messages::response::{EmptyQueryResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::ParameterStatus;
use tokio_util::sync::CancellationToken;

use super::answers::{Running, complete, text_fields, text_row};
use super::cancel::Place;
use super::commands::{self, Command, Piece};
use super::frames::Message;
use super::prepared::{Portal, Prepared};
use super::refusal::{Refusal, code, warning};
use super::rows::{self, Fields};
use super::stream::{Reader, Writer};
use super::variables::Variables;
use super::{End, Login, Shared};
use crate::SQL_BYTES_MAX;

/// One client.
pub(super) struct Session<'a> {
    pub(super) shared: &'a Shared,
    pub(super) place: Place,
    pub(super) login: Login,
    pub(super) variables: Variables,
    pub(super) writer: Writer,
    pub(super) status: TransactionStatus,
    pub(super) statements: HashMap<String, Arc<Prepared>>,
    pub(super) portals: HashMap<String, Portal>,
    /// After an error of the extended protocol everything is passed over until the next Sync.
    skipping: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        place: Place,
        login: Login,
        variables: Variables,
        writer: Writer,
    ) -> Self {
        Self {
            shared,
            place,
            login,
            variables,
            writer,
            status: TransactionStatus::Idle,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
        }
    }

    /// Answers until the client leaves or has to.
    pub(super) async fn run(&mut self, reader: &mut Reader, stop: &CancellationToken) -> Result<(), End> {
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout(self.shared.settings.idle, reader.message()) => message,
                () = stop.cancelled() => {
                    return Err(Refusal::fatal(code::SHUTDOWN, "the server is shutting down").into());
                }
            };
            let Ok(message) = message else {
                return Err(Refusal::fatal(code::IDLE, "the connection was idle for too long").into());
            };
            match message? {
                None | Some(Message::Terminate) => return Ok(()),
                Some(message) => self.handle(message, reader).await?,
            }
        }
    }

    async fn handle(&mut self, message: Message, reader: &mut Reader) -> Result<(), End> {
        let simple = matches!(message, Message::Query(_));
        if matches!(message, Message::Copy) || (self.skipping && !matches!(message, Message::Sync)) {
            return Ok(());
        }
        let cancelled = self.place.begin();
        let limit = self.variables.statement_timeout();
        let late = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            biased;
            () = cancelled.cancelled() => Err(Refusal::new(code::CANCELED, "canceling statement due to user request").into()),
            () = late => Err(Refusal::new(code::CANCELED, "canceling statement due to statement timeout").into()),
            done = self.answer(message) => done,
            () = reader.gone() => Err(End::Gone),
        };
        match done {
            Err(End::Refused(refusal)) if !refusal.fatal => self.refuse(refusal, simple).await,
            done => done,
        }
    }

    async fn answer(&mut self, message: Message) -> Result<(), End> {
        match message {
            Message::Query(sql) => return self.simple(&sql).await,
            Message::Parse { name, sql, types } => self.parse(name, &sql, &types).await?,
            Message::Bind(bind) => self.bind(bind)?,
            Message::Describe { target, name } => self.describe(target, &name)?,
            Message::Execute { portal, rows_max } => self.execute(&portal, rows_max).await?,
            Message::Close { target, name } => self.close(target, &name)?,
            Message::Flush => self.writer.flush().await?,
            Message::Sync => return self.sync().await,
            Message::Password(_) => {
                return Err(Refusal::fatal(code::PROTOCOL, "no password was asked for").into());
            }
            Message::Copy | Message::Terminate => {}
        }
        Ok(self.writer.flush_some().await?)
    }

    async fn refuse(&mut self, refusal: Refusal, simple: bool) -> Result<(), End> {
        self.writer.put(refusal.into())?;
        self.status = self.status.to_error_state();
        self.portals.clear();
        if simple {
            self.ready()?;
        } else {
            self.skipping = true;
        }
        Ok(self.writer.flush().await?)
    }

    fn ready(&mut self) -> Result<(), End> {
        Ok(self.writer.put(Reply::ReadyForQuery(ReadyForQuery::new(self.status)))?)
    }

    async fn sync(&mut self) -> Result<(), End> {
        self.skipping = false;
        if self.status == TransactionStatus::Idle {
            self.portals.clear();
        }
        self.ready()?;
        Ok(self.writer.flush().await?)
    }

    async fn simple(&mut self, sql: &str) -> Result<(), End> {
        let pieces = cut(sql)?;
        if pieces.is_empty() {
            self.writer.put(Reply::EmptyQueryResponse(EmptyQueryResponse::new()))?;
        }
        for piece in &pieces {
            self.allowed(&piece.command)?;
            match &piece.command {
                Command::Query => self.simple_query(piece).await?,
                command => self.command(command, None)?,
            }
        }
        self.portals.clear();
        self.ready()?;
        Ok(self.writer.flush().await?)
    }

    async fn simple_query(&mut self, piece: &Piece) -> Result<(), End> {
        let answer = self.shared.run(&self.login, &self.variables, piece, Vec::new()).await?;
        let (fields, types) = (rows::fields(answer.schema(), &[])?, rows::encoded_types(answer.schema()));
        self.writer.put(Reply::RowDescription(rows::description(&fields)))?;
        let (sent, _) = Running::new(answer, fields, types).send(&mut self.writer, usize::MAX).await?;
        Ok(self.writer.put(complete(&tag(&piece.sql, sent)))?)
    }

    /// After an error in a transaction only its end is heard.
    pub(super) fn allowed(&self, command: &Command) -> Result<(), Refusal> {
        let ends = matches!(command, Command::Commit | Command::Rollback | Command::RollbackTo);
        if self.status != TransactionStatus::Error || ends {
            return Ok(());
        }
        let message = "current transaction is aborted, commands ignored until end of transaction block";
        Err(Refusal::new(code::ABORTED, message))
    }

    /// Answers what is no query. `fields` are given when the client knows the columns already.
    pub(super) fn command(&mut self, command: &Command, fields: Option<Fields>) -> Result<(), End> {
        let tag = match command {
            Command::Query => return Err(Refusal::internal(&"a query was taken for a command").into()),
            Command::Begin => self.begin()?,
            Command::Commit | Command::Rollback => self.end(command)?,
            Command::RollbackTo => {
                self.status = self.status.to_idle_state().to_in_transaction_state();
                "ROLLBACK"
            }
            Command::Nothing(word) => word,
            Command::Set { name, value } => {
                if let Some((name, value)) = self.variables.set(name, value)? {
                    self.writer.put(Reply::ParameterStatus(ParameterStatus::new(name, value)))?;
                }
                "SET"
            }
            Command::Reset(name) => {
                self.variables.reset_named(name)?;
                "RESET"
            }
            Command::Show(name) => {
                self.show(name, fields)?;
                "SHOW"
            }
            Command::Discard => {
                self.variables.reset_named("")?;
                self.statements.clear();
                "DISCARD ALL"
            }
            Command::Deallocate(name) => self.deallocate(name)?,
        };
        Ok(self.writer.put(complete(tag))?)
    }

    fn begin(&mut self) -> Result<&'static str, End> {
        if self.status == TransactionStatus::Transaction {
            self.writer.put(warning("25001", "there is already a transaction in progress"))?;
        }
        self.status = self.status.to_in_transaction_state();
        Ok("BEGIN")
    }

    fn end(&mut self, command: &Command) -> Result<&'static str, End> {
        if self.status == TransactionStatus::Idle {
            self.writer.put(warning("25P01", "there is no transaction in progress"))?;
        }
        let failed = self.status == TransactionStatus::Error;
        self.status = TransactionStatus::Idle;
        Ok(if failed || *command == Command::Rollback { "ROLLBACK" } else { "COMMIT" })
    }

    fn deallocate(&mut self, name: &str) -> Result<&'static str, End> {
        if name.is_empty() {
            self.statements.clear();
            return Ok("DEALLOCATE ALL");
        }
        match self.statements.remove(name) {
            Some(_) => Ok("DEALLOCATE"),
            None => Err(super::prepared::no_statement(name).into()),
        }
    }

    fn show(&mut self, name: &str, fields: Option<Fields>) -> Result<(), End> {
        let described = fields.is_some();
        let (columns, rows) = self.shown(name)?;
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let fields = fields.unwrap_or_else(|| text_fields(&columns, &[]));
        if !described {
            self.writer.put(Reply::RowDescription(rows::description(&fields)))?;
        }
        for row in rows {
            let values: Vec<&str> = row.iter().map(String::as_str).collect();
            self.writer.put(text_row(&fields, &values)?)?;
        }
        Ok(())
    }

    /// The columns and rows of `SHOW name` or `SHOW ALL`.
    pub(super) fn shown(&self, name: &str) -> Result<(Vec<String>, Vec<Vec<String>>), Refusal> {
        if name.eq_ignore_ascii_case("all") {
            let columns = ["name", "setting", "description"].map(str::to_owned).to_vec();
            let row =
                |(name, value): (&&str, &String)| vec![(*name).to_owned(), value.clone(), String::new()];
            return Ok((columns, self.variables.all().iter().map(row).collect()));
        }
        let (name, value) = self.variables.show(name)?;
        Ok((vec![name], vec![vec![value]]))
    }
}

/// Cuts a text that is not too long to be looked at.
pub(super) fn cut(sql: &str) -> Result<Vec<Piece>, Refusal> {
    if sql.len() > SQL_BYTES_MAX {
        let message = format!("the statement has {} bytes, the most are {SQL_BYTES_MAX}", sql.len());
        return Err(Refusal::new(code::LIMIT, message));
    }
    commands::cut(sql)
}

/// What clients are told that a statement was.
pub(super) fn tag(sql: &str, rows: usize) -> String {
    let word = sql.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match word.as_str() {
        "EXPLAIN" | "SHOW" => word,
        _ => format!("SELECT {rows}"),
    }
}
