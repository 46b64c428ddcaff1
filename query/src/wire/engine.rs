//! What the wire asks of the workers: what a statement answers and takes, and its answer, with errors as clients of
//! PostgreSQL know them.

use std::pin::Pin;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, TryStreamExt};

use super::commands::Piece;
use super::refusal::{Refusal, code};
use super::variables::Variables;
use super::{End, Login, Shared};
use crate::{Code, Description, Error, Flavour, Format, Parameter, Statement};

/// A statement that runs.
pub(super) struct Answer {
    schema: SchemaRef,
    batches: Pin<Box<dyn Stream<Item = Result<RecordBatch, Error>> + Send>>,
}

impl Shared {
    /// What a query answers and takes, with values like these where the query does not tell their type.
    pub(super) async fn describe(
        &self,
        login: &Login,
        variables: &Variables,
        piece: &Piece,
        samples: Vec<Parameter>,
    ) -> Result<Description, End> {
        let statement = self.statement(login, variables, piece, samples).await?;
        self.workers.describe(&statement).await.map_err(|error| refusal(error, Some(piece)).into())
    }

    /// Runs a query with the user's rights of this moment.
    pub(super) async fn run(
        &self,
        login: &Login,
        variables: &Variables,
        piece: &Piece,
        parameters: Vec<Parameter>,
    ) -> Result<Answer, End> {
        let statement = self.statement(login, variables, piece, parameters).await?;
        let answer = self.workers.run(&statement).await.map_err(|error| refusal(error, Some(piece)))?;
        Ok(Answer { schema: answer.schema().clone(), batches: Box::pin(answer.into_batches()) })
    }

    async fn statement(
        &self,
        login: &Login,
        variables: &Variables,
        piece: &Piece,
        parameters: Vec<Parameter>,
    ) -> Result<Statement, End> {
        let visible = self.accounts.visible(login).await?;
        let visible = visible.ok_or_else(|| {
            Refusal::fatal(code::NOT_ALLOWED, "this user was removed, or has another password now")
        })?;
        let named = |(name, value): (&&str, &String)| ((*name).to_owned(), value.clone());
        Ok(Statement {
            user: login.user.clone(),
            sql: piece.sql.clone(),
            parameters,
            visible,
            flavour: Flavour::Postgres { variables: variables.all().iter().map(named).collect() },
            format: Format::Arrow,
            limit: None,
            timeout: variables.statement_timeout(),
        })
    }
}

impl Answer {
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>, End> {
        self.batches.try_next().await.map_err(|error| refusal(error, None).into())
    }
}

/// An error of a worker in the words and codes of the wire. `piece` says where its positions count from.
fn refusal(error: Error, piece: Option<&Piece>) -> Refusal {
    let code = match &error {
        Error::Refused(refused) => of_mistake(refused.code),
        Error::TimedOut { .. } => code::CANCELED,
        Error::Memory { .. } => "53200",
        Error::Cpu => "53000",
        Error::Busy { .. } => "53400",
        Error::Unavailable { .. } => {
            tracing::error!(%error, "a statement of the postgres wire failed");
            return Refusal::new("58000", "a database or the object store does not answer");
        }
        Error::Worker { .. } => return Refusal::internal(&error),
    };
    let Error::Refused(refused) = error else {
        return Refusal::new(code, error.to_string());
    };
    let place = refused.position.zip(piece);
    let position = place.map(|(place, piece)| piece.position(place.line, place.column));
    Refusal { position, ..Refusal::new(code, refused.message) }
}

fn of_mistake(mistake: Code) -> &'static str {
    match mistake {
        Code::Syntax => code::SYNTAX,
        Code::UnknownTable => "42P01",
        Code::UnknownColumn => "42703",
        Code::AmbiguousColumn => "42702",
        Code::UnknownFunction => "42883",
        Code::NotAllowed => code::READ_ONLY,
        Code::TooLong => code::LIMIT,
        Code::TooComplex => "54001",
        Code::BadParameter => code::BAD_VALUE,
        Code::Invalid => "42000",
        Code::Failed => "22000",
    }
}
