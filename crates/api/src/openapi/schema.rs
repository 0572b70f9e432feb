//! From the wire's types to schemas: what a client must send and what it will get, as two views of the same types.
//!
//! Serde's derive says which keys there are; [`settle`] says what it cannot know: that a key which may be missing is
//! not nullable for that reason (`present` in `api-types` refuses `null`), and how large the integers are.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// Gives the schema of a type, noting its parts among the generator's definitions.
pub(super) type MakeSchema = fn(&mut SchemaGenerator) -> Schema;

/// The schema of `T`.
pub(super) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The two views: what is read and what is written.
pub(super) struct Schemas {
    /// For requests.
    pub(super) read: SchemaGenerator,
    /// For answers.
    pub(super) written: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
            settings
                .transforms
                .push(Box::new(RecursiveTransform(settle as fn(&mut Schema))));
        });
        Self {
            read: settings.clone().for_deserialize().into_generator(),
            written: settings.for_serialize().into_generator(),
        }
    }

    /// All types by name, and the names whose two views differ: no name may stand for two things.
    pub(super) fn into_components(mut self) -> (Map<String, Value>, Vec<String>) {
        let mut all = self.read.take_definitions(true);
        let mut torn = Vec::new();
        for (name, schema) in self.written.take_definitions(true) {
            match all.get(&name) {
                Some(read) if *read != schema => torn.push(name),
                _ => drop(all.insert(name, schema)),
            }
        }
        (all, torn)
    }
}

/// The mark of a key that may be missing and may also be `null`.
const NULLABLE: &str = "x-nullable";

/// Brings one schema to what the wire means.
fn settle(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    bound(object);
    let required: Vec<String> = object
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (name, property) in properties {
        let Some(property) = property.as_object_mut() else {
            continue;
        };
        let nullable = property.remove(NULLABLE).is_some();
        if !nullable && !required.contains(name) {
            forbid_null(property);
        }
        // Serde's default of an absent key is our way of saying "absent", not a value that a client could send.
        if property.get("default").is_some_and(Value::is_null) {
            property.remove("default");
        }
    }
}

/// JSON knows no sizes of integers; the types do.
fn bound(object: &mut Map<String, Value>) {
    let range = match object.get("format").and_then(Value::as_str) {
        Some("int32") => (json!(i32::MIN), json!(i32::MAX)),
        Some("uint32") => (json!(0), json!(u32::MAX)),
        Some("uint16") => (json!(0), json!(u16::MAX)),
        _ => return,
    };
    object.entry("minimum").or_insert(range.0);
    object.entry("maximum").or_insert(range.1);
}

fn forbid_null(property: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = property.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            property.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choices)) = property.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type") != Some(&json!("null")));
        if let [Value::Object(only)] = choices.as_mut_slice() {
            let only = std::mem::take(only);
            property.remove("anyOf");
            property.extend(only);
        }
    }
}

/// A text.
pub(super) fn text() -> Value {
    json!({"type": "string"})
}

/// A text of at most so many characters.
pub(super) fn text_up_to(characters: u32) -> Value {
    json!({"type": "string", "maxLength": characters})
}

/// A text that follows a regular expression.
pub(super) fn text_like(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

/// A UUID.
fn uuid() -> Value {
    json!({"type": "string", "format": "uuid"})
}

/// A whole number that is not below `minimum`.
pub(super) fn number_from(minimum: i64) -> Value {
    json!({"type": "integer", "format": "int64", "minimum": minimum})
}

/// A whole number within these bounds.
pub(super) fn number(minimum: i64, maximum: i64) -> Value {
    json!({"type": "integer", "minimum": minimum, "maximum": maximum})
}

/// One of these words.
pub(super) fn words<T>(table: &[(&str, T)]) -> Value {
    let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
    json!({"type": "string", "enum": words})
}

/// The parameters in paths, by name.
pub(super) fn path_parameter(name: &str) -> Value {
    match name {
        "sandboxID" => text_like("^[a-z0-9]{1,63}(-[a-z0-9]{1,63})?$"),
        "hash" => text_like("^[0-9a-f]{64}$"),
        "teamID" | "buildID" | "apiKeyID" | "volumeID" | "webhookID" => uuid(),
        _ => text(),
    }
}

#[cfg(test)]
mod tests {
    use soulbox_api_types::sandbox::{NewSandbox, Sandbox};

    use super::*;

    fn properties(schema: &Value) -> &Map<String, Value> {
        schema["properties"].as_object().unwrap()
    }

    #[test]
    fn what_may_be_missing_is_not_nullable_unless_it_says_so() {
        let mut schemas = Schemas::new();
        of::<NewSandbox>(&mut schemas.read);
        of::<Sandbox>(&mut schemas.written);
        let (all, torn) = schemas.into_components();
        assert!(torn.is_empty(), "{torn:?}");
        let new = &all["NewSandbox"];
        assert_eq!(new["required"], json!(["templateID"]));
        assert_eq!(properties(new)["timeout"]["type"], "integer");
        assert_eq!(properties(new)["timeout"]["minimum"], 0);
        assert_eq!(properties(new)["timeout"]["maximum"], i32::MAX);
        assert_eq!(properties(new)["mcp"]["type"], json!(["object", "null"]));
        assert_eq!(
            properties(new)["network"]["$ref"],
            "#/components/schemas/SandboxNetworkConfig"
        );
        let proxy = &properties(&all["SandboxNetworkConfig"])["egressProxy"];
        assert!(proxy["anyOf"].as_array().unwrap().len() == 2, "{proxy}");
        let answer = &all["Sandbox"];
        assert_eq!(properties(answer)["alias"]["type"], "string");
        assert_eq!(
            properties(answer)["domain"]["type"],
            json!(["string", "null"])
        );
        let required = answer["required"].as_array().unwrap();
        assert!(required.contains(&json!("domain")) && !required.contains(&json!("alias")));
    }
}
