//! The parameters of a pipeline file.

use crate::problem::{Problems, quoted};
use crate::spec::{ParameterSpec, ParameterTypeSpec};
use crate::tree::{Node, Value};
use crate::{Parameter, ParameterType, shape};

use super::parsed;

/// All parameters, or `None` when one could not be read. Nobody is there to give one to a pipeline that fetches.
pub fn read(node: Option<&Node>, fetches: bool, problems: &mut Problems) -> Option<Vec<Parameter>> {
    let Some(node) = node else { return Some(Vec::new()) };
    let items: Vec<Option<Parameter>> = node.items().iter().map(|item| parameter(item, problems)).collect();
    let sound: Option<Vec<Parameter>> = items.into_iter().collect();
    let parameters = sound.filter(|_| matches!(node.value, Value::List(_)))?;
    for (index, parameter) in parameters.iter().enumerate() {
        if parameters[..index].iter().any(|other| other.name == parameter.name) {
            let message = format!("two parameters have the name {}", quoted(parameter.name.as_str()));
            problems.add_help(node.items()[index].place_of("name"), message, "give each a name of its own");
        }
        if fetches && parameter.default.is_none() {
            let name = quoted(parameter.name.as_str());
            let message = format!("the parameter {name} has no default, and nobody gives one to a fetch");
            problems.add_help(node.items()[index].place, message, "add `default: …`");
        }
    }
    Some(parameters)
}

fn parameter(node: &Node, problems: &mut Problems) -> Option<Parameter> {
    let spec: ParameterSpec = shape::part(node)?;
    let name = parsed(&spec.name, node.place_of("name"), problems);
    let kind = match spec.r#type {
        ParameterTypeSpec::Int64 => ParameterType::Int64,
        ParameterTypeSpec::Float64 => ParameterType::Float64,
        ParameterTypeSpec::Bool => ParameterType::Bool,
        ParameterTypeSpec::Text => ParameterType::Text,
        ParameterTypeSpec::Date => ParameterType::Date,
    };
    let default = match spec.default.map(|default| kind.parse(&default.0)).transpose() {
        Ok(default) => default,
        Err(message) => {
            let message = format!("the default of a parameter of type {} {message}", kind.as_str());
            problems.add(node.place_of("default"), message);
            return None;
        }
    };
    Some(Parameter { name: name?, kind, default })
}
