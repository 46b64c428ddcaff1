//! The extended protocol: statements that are prepared, bound to values, described, executed in parts, closed.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::datatypes::DataType;
use pgwire::api::Type;
use pgwire::messages::PgWireBackendMessage as Reply;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::EmptyQueryResponse;

use super::End;
use super::answers::{Running, complete, text_fields};
use super::commands::{Command, Piece};
use super::frames::{Bind, Target};
use super::parameters;
use super::refusal::{Refusal, code};
use super::rows::{self, Fields};
use super::session::{Session, cut, tag};
use crate::{Description, Parameter};

/// A statement that waits to be bound.
pub(super) struct Prepared {
    /// `None` for a text without a statement.
    piece: Option<Piece>,
    /// What the engine says of a query.
    described: Option<Description>,
    /// The types that the client gives its values in.
    types: Vec<Type>,
}

/// A statement with its values.
pub(super) struct Portal {
    prepared: Arc<Prepared>,
    values: Vec<Parameter>,
    formats: Vec<i16>,
    state: State,
}

enum State {
    Ready,
    Running(Running),
    Done,
}

/// For a name that no statement has.
pub(super) fn no_statement(name: &str) -> Refusal {
    let name: String = name.chars().take(63).collect();
    Refusal::new(code::NO_STATEMENT, format!("prepared statement \"{name}\" does not exist"))
}

fn no_portal(name: &str) -> Refusal {
    let name: String = name.chars().take(63).collect();
    Refusal::new(code::NO_PORTAL, format!("portal \"{name}\" does not exist"))
}

fn too_many(what: &str, most: usize) -> Refusal {
    Refusal::new(code::LIMIT, format!("a connection has {most} {what} at most")).hint("close some")
}

impl Session<'_> {
    /// Prepares a statement. A query is planned now, so that what is wrong with it is told here.
    pub(super) async fn parse(&mut self, name: String, sql: &str, types: &[u32]) -> Result<(), End> {
        let mut pieces = cut(sql)?;
        if pieces.len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(Refusal::new(code::SYNTAX, message).into());
        }
        let piece = pieces.pop();
        if let Some(piece) = &piece {
            self.allowed(&piece.command)?;
        }
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(Refusal::new("42P05", format!("prepared statement \"{name}\" already exists")).into());
        }
        let most = self.shared.settings.statements_max;
        if self.statements.len() >= most {
            return Err(too_many("prepared statements", most).into());
        }
        let given = given_types(types, piece.as_ref().map_or(0, |piece| piece.places))?;
        let described = match &piece {
            Some(piece) if piece.command == Command::Query => {
                let samples = given.iter().map(parameters::sample).collect();
                Some(self.shared.describe(&self.login, &self.variables, piece, samples).await?)
            }
            _ => None,
        };
        let found = described.as_ref().map_or(&[][..], |described| &described.parameters);
        let types = given.into_iter().enumerate().map(|(at, given)| {
            let found = || arrow_pg::datatypes::into_pg_type(found.get(at)?.as_ref()?).ok();
            if given == Type::UNKNOWN { found().unwrap_or(Type::TEXT) } else { given }
        });
        let types = types.collect();
        self.statements.insert(name, Arc::new(Prepared { piece, described, types }));
        Ok(self.writer.put(Reply::ParseComplete(ParseComplete::new()))?)
    }

    /// Binds values to a prepared statement.
    pub(super) fn bind(&mut self, bind: Bind) -> Result<(), End> {
        let prepared = self.statements.get(&bind.statement).ok_or_else(|| no_statement(&bind.statement))?;
        if let Some(piece) = &prepared.piece {
            self.allowed(&piece.command)?;
        }
        let mut values = parameters::read(&bind, &prepared.types)?;
        // Some questions are answered without looking at their last parameters.
        values.truncate(prepared.described.as_ref().map_or(0, |described| described.parameters.len()));
        prepared.fields(self, &bind.result_formats)?;
        let most = self.shared.settings.portals_max;
        if !self.portals.contains_key(&bind.portal) && self.portals.len() >= most {
            return Err(too_many("open portals", most).into());
        }
        let prepared = Arc::clone(prepared);
        let portal = Portal { prepared, values, formats: bind.result_formats, state: State::Ready };
        match self.portals.entry(bind.portal) {
            Entry::Occupied(taken) if !taken.key().is_empty() => {
                let message = format!("portal \"{}\" already exists", taken.key());
                return Err(Refusal::new("42P03", message).into());
            }
            entry => drop(entry.insert_entry(portal)),
        }
        Ok(self.writer.put(Reply::BindComplete(BindComplete::new()))?)
    }

    /// Tells the columns, and of a statement the types of its values.
    pub(super) fn describe(&mut self, target: Target, name: &str) -> Result<(), End> {
        let fields = match target {
            Target::Statement => {
                let prepared = self.statements.get(name).ok_or_else(|| no_statement(name))?;
                let types = prepared.types.iter().map(Type::oid).collect();
                self.writer.put(Reply::ParameterDescription(ParameterDescription::new(types)))?;
                prepared.fields(self, &[])?
            }
            Target::Portal => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                portal.prepared.fields(self, &portal.formats)?
            }
        };
        Ok(self.writer.put(match fields {
            Some(fields) => Reply::RowDescription(rows::description(&fields)),
            None => Reply::NoData(NoData::new()),
        })?)
    }

    /// Runs a portal, or goes on with it, for so many rows.
    pub(super) async fn execute(&mut self, name: &str, rows_max: usize) -> Result<(), End> {
        // Taken out, so that an error leaves none half-way.
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let prepared = Arc::clone(&portal.prepared);
        let Some(piece) = &prepared.piece else {
            self.portals.insert(name.to_owned(), portal);
            return Ok(self.writer.put(Reply::EmptyQueryResponse(EmptyQueryResponse::new()))?);
        };
        self.allowed(&piece.command)?;
        let fields = prepared.fields(self, &portal.formats)?;
        if piece.command != Command::Query {
            self.command(&piece.command, fields)?;
            if matches!(piece.command, Command::Commit | Command::Rollback) {
                self.portals.clear();
            }
            return Ok(());
        }
        if matches!(portal.state, State::Ready) {
            let values = std::mem::take(&mut portal.values);
            let answer = self.shared.run(&self.login, &self.variables, piece, values).await?;
            portal.state =
                State::Running(Running::new(answer, fields.unwrap_or_default(), prepared.encoded_types()));
        }
        let (sent, ended) = match &mut portal.state {
            State::Running(running) => running.send(&mut self.writer, rows_max).await?,
            State::Ready | State::Done => (0, true),
        };
        if ended {
            portal.state = State::Done;
            self.writer.put(complete(&tag(&piece.sql, sent)))?;
        } else {
            self.writer.put(Reply::PortalSuspended(PortalSuspended::new()))?;
        }
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    /// Forgets a statement or a portal; one that is not there is none the less closed.
    pub(super) fn close(&mut self, target: Target, name: &str) -> Result<(), End> {
        match target {
            Target::Statement => drop(self.statements.remove(name)),
            Target::Portal => drop(self.portals.remove(name)),
        }
        Ok(self.writer.put(Reply::CloseComplete(CloseComplete::new()))?)
    }
}

impl Prepared {
    fn encoded_types(&self) -> Vec<DataType> {
        self.described.as_ref().map_or_else(Vec::new, |described| rows::encoded_types(&described.schema))
    }

    /// The columns of the answer, `None` when there are none to come.
    fn fields(&self, session: &Session<'_>, formats: &[i16]) -> Result<Option<Fields>, Refusal> {
        match (&self.piece, &self.described) {
            (_, Some(described)) => rows::fields(&described.schema, formats).map(Some),
            (Some(Piece { command: Command::Show(name), .. }), None) => {
                let (columns, _) = session.shown(name)?;
                let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
                Ok(Some(text_fields(&columns, formats)))
            }
            _ => Ok(None),
        }
    }
}

/// The types that the client names for its values, unknown where it names none.
fn given_types(oids: &[u32], places: usize) -> Result<Vec<Type>, Refusal> {
    let given = |at: usize| match oids.get(at) {
        None | Some(0) => Ok(Type::UNKNOWN),
        Some(oid) => Type::from_oid(*oid).filter(parameters::is_known).ok_or_else(|| {
            let message = format!("parameter ${} has a type that is not known here", at + 1);
            Refusal::new(code::UNSUPPORTED, message).hint("send it as text")
        }),
    };
    (0..places).map(given).collect()
}
