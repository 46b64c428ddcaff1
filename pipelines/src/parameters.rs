//! Parameters: what a delayed job may be told beside its files, seen by the pipeline's SQL as `$name`.
//! Checked when a job is made and again when it runs, because the pipeline may have changed in between.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde_json::Value;

use crate::problem::quoted;
use crate::{ColumnName, Pipeline};

/// Longest text of a parameter, in characters.
pub const PARAMETER_CHARS_MAX: usize = 1_000;
/// Most parameters of a pipeline.
pub const PARAMETERS_MAX: usize = 50;

/// A parameter that a pipeline declares.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name, in SQL after a `$`.
    pub name: ColumnName,
    /// What it must be.
    pub kind: ParameterType,
    /// What it is when a job does not give it; without one it must be given.
    pub default: Option<ParameterValue>,
}

/// What a parameter must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterType {
    /// A whole number of 64 bits.
    Int64,
    /// A number with a fraction.
    Float64,
    /// True or false.
    Bool,
    /// Any text.
    Text,
    /// A calendar date, `2024-05-01`.
    Date,
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum ParameterValue {
    /// Of [`ParameterType::Int64`].
    Int64(i64),
    /// Of [`ParameterType::Float64`].
    Float64(f64),
    /// Of [`ParameterType::Bool`].
    Bool(bool),
    /// Of [`ParameterType::Text`].
    Text(String),
    /// Of [`ParameterType::Date`].
    Date(NaiveDate),
}

impl ParameterType {
    /// The word of the pipeline file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Bool => "bool",
            Self::Text => "text",
            Self::Date => "date",
        }
    }

    /// What it must be, for people.
    fn words(self) -> String {
        match self {
            Self::Int64 => "a whole number".to_owned(),
            Self::Float64 => "a number".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Text => format!("a text of at most {PARAMETER_CHARS_MAX} characters"),
            Self::Date => "a date such as \"2024-05-01\"".to_owned(),
        }
    }

    /// A value of JSON, when it fits.
    pub fn read(self, value: &Value) -> Result<ParameterValue, String> {
        let text = value.as_str().filter(|text| text.chars().count() <= PARAMETER_CHARS_MAX);
        let read = match self {
            Self::Int64 => value.as_i64().map(ParameterValue::Int64),
            Self::Float64 => value.as_f64().filter(|number| number.is_finite()).map(ParameterValue::Float64),
            Self::Bool => value.as_bool().map(ParameterValue::Bool),
            Self::Text => text.map(|text| ParameterValue::Text(text.to_owned())),
            Self::Date => text.and_then(|text| text.parse().ok()).map(ParameterValue::Date),
        };
        read.ok_or_else(|| format!("must be {}", self.words()))
    }

    /// A value as it is written in a pipeline file or on a command line.
    pub fn parse(self, text: &str) -> Result<ParameterValue, String> {
        match self {
            Self::Text | Self::Date => self.read(&Value::from(text)),
            _ => self.read(&serde_json::from_str(text).unwrap_or(Value::Null)),
        }
    }
}

impl ParameterValue {
    /// The value as JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Int64(value) => Value::from(*value),
            Self::Float64(value) => Value::from(*value),
            Self::Bool(value) => Value::from(*value),
            Self::Text(value) => Value::from(value.as_str()),
            Self::Date(value) => Value::from(value.to_string()),
        }
    }
}

impl Pipeline {
    /// The value of each parameter, by what is given or by default; else all that is wrong, in words.
    pub fn bind(&self, given: &BTreeMap<String, Value>) -> Result<BTreeMap<String, ParameterValue>, String> {
        let mut bound = BTreeMap::new();
        let mut wrong = Vec::new();
        for parameter in &self.parameters {
            let name = parameter.name.as_str();
            let value = match (given.get(name), &parameter.default) {
                (Some(value), _) => parameter.kind.read(value),
                (None, Some(value)) => Ok(value.clone()),
                (None, None) => Err(format!("is missing: it must be {}", parameter.kind.words())),
            };
            match value {
                Ok(value) => drop(bound.insert(name.to_owned(), value)),
                Err(message) => wrong.push(format!("parameter `{name}` {message}")),
            }
        }
        let known = |name: &str| self.parameters.iter().any(|parameter| parameter.name.as_str() == name);
        let unknown = given.keys().filter(|name| !known(name)).take(PARAMETERS_MAX);
        wrong.extend(
            unknown.map(|name| format!("{} is no parameter of pipeline `{}`", quoted(name), self.name)),
        );
        if wrong.is_empty() { Ok(bound) } else { Err(wrong.join("; ")) }
    }

    /// The same pipeline whose parameters have these values by default, for a run by hand.
    pub fn with_parameters(mut self, given: &BTreeMap<String, Value>) -> Result<Self, String> {
        let mut bound = self.bind(given)?;
        for parameter in &mut self.parameters {
            parameter.default = bound.remove(parameter.name.as_str());
        }
        Ok(self)
    }
}
