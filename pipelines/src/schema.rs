//! The JSON Schema (draft 2020-12) of pipeline files, for editors and for the check of their shape.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

use crate::spec::PipelineSpec;

/// The JSON Schema of a pipeline file, draft 2020-12, with a description of every field.
pub fn json_schema() -> Value {
    schema_of::<PipelineSpec>()
}

/// The schema of one part of a file, with all that it refers to.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    forbid_null(&mut schema);
    schema
}

/// A field may be left out, but `field:` with nothing behind it is a slip and is refused.
fn forbid_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            forbid_null_type(object);
            forbid_null_branch(object);
            object.values_mut().for_each(forbid_null);
        }
        Value::Array(items) => items.iter_mut().for_each(forbid_null),
        _ => {}
    }
}

/// `type: [string, null]` becomes `type: string`.
fn forbid_null_type(object: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = object.get("type") else {
        return;
    };
    if let [only, Value::String(null)] = types.as_slice()
        && null == "null"
    {
        let only = only.clone();
        object.insert("type".to_owned(), only);
    }
}

/// `anyOf: [{$ref}, {type: null}]` becomes `$ref`.
fn forbid_null_branch(object: &mut Map<String, Value>) {
    let Some(Value::Array(branches)) = object.get("anyOf") else {
        return;
    };
    let is_null = |branch: &Value| branch.get("type").is_some_and(|kind| kind == "null");
    if let [Value::Object(only), null] = branches.as_slice()
        && is_null(null)
    {
        let only = only.clone();
        object.remove("anyOf");
        object.extend(only);
    }
}
