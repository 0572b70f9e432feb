//! From operations to the text of OpenAPI 3.1.

use http::StatusCode;
use serde_json::{Map, Value, json};
use soulbox_api_types::ErrorBody;
use soulbox_api_types::volume::VolumeContentError;

use super::operation::{Answer, Caller, Content, Operation, Parameter, Presence, RequestBody};
use super::schema::{Schemas, of, path_parameter};

/// The whole document.
pub(super) fn write(operations: &[Operation]) -> Value {
    let mut schemas = Schemas::new();
    let error = of::<ErrorBody>(&mut schemas.written);
    let mut paths = Map::new();
    for operation in operations {
        let path = paths
            .entry(operation.path)
            .or_insert_with(|| path_item(operation.path));
        path[operation.method.to_ascii_lowercase()] = one(operation, operations, &mut schemas);
    }
    let mut statuses: Vec<u16> = operations
        .iter()
        .flat_map(Operation::all_refusals)
        .collect();
    statuses.sort_unstable();
    statuses.dedup();
    let responses: Map<String, Value> = statuses
        .into_iter()
        .map(|status| (status.to_string(), refusal(status, &error)))
        .collect();
    let (types, _torn) = schemas.into_components();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "SoulBox control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Sandboxes, templates, teams and the operator's part. What is not built yet is described \
                with its 501. Everything below `/instances` and `/envs` was removed and answers 404.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": types,
            "responses": responses,
            "securitySchemes": credentials(),
        },
    })
}

fn path_item(path: &str) -> Value {
    let names = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = names
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": path_parameter(name)}))
        .collect();
    if parameters.is_empty() {
        json!({})
    } else {
        json!({"parameters": parameters})
    }
}

fn one(operation: &Operation, all: &[Operation], schemas: &mut Schemas) -> Value {
    let mut text = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "security": security(operation.caller),
        "responses": answers(operation, all, schemas),
    });
    if !operation.parameters.is_empty() {
        text["parameters"] = operation.parameters.iter().map(parameter).collect();
    }
    if let Some(body) = &operation.body {
        text["requestBody"] = request_body(body, schemas);
    }
    if operation.archive {
        let archive = json!({"schema": {"type": "string", "format": "binary"}});
        text["requestBody"] =
            json!({"required": true, "content": {"application/octet-stream": archive}});
    }
    if operation.deprecated {
        text["deprecated"] = true.into();
    }
    text
}

fn parameter(parameter: &Parameter) -> Value {
    let mut text = json!({
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "schema": parameter.schema,
    });
    if parameter.schema["type"] == "array" {
        // One value with commas; repeating the parameter means the same.
        text["style"] = "form".into();
        text["explode"] = false.into();
    }
    text
}

fn request_body(body: &RequestBody, schemas: &mut Schemas) -> Value {
    let schema = (body.schema)(&mut schemas.read).to_value();
    let schema = match &body.narrowed {
        Some(narrowed) => json!({"allOf": [schema, narrowed]}),
        None => schema,
    };
    let mut content = json!({"schema": schema});
    if let Some(example) = &body.example {
        content["example"] = example.clone();
    }
    json!({
        "required": body.presence == Presence::Required,
        "content": {"application/json": content},
    })
}

fn answers(operation: &Operation, all: &[Operation], schemas: &mut Schemas) -> Value {
    let mut by_status: Map<String, Value> = operation
        .all_refusals()
        .into_iter()
        .map(|status| {
            if operation.caller == Caller::Volume {
                let error = of::<VolumeContentError>(&mut schemas.written);
                return (status.to_string(), refusal(status, &error));
            }
            let reference = format!("#/components/responses/{status}");
            (status.to_string(), json!({"$ref": reference}))
        })
        .collect();
    for answer in &operation.answers {
        let mut text = success(answer, schemas);
        if operation.id.starts_with("createSandbox") {
            text["links"] = links(all);
        }
        by_status.insert(answer.status.as_str().to_owned(), text);
    }
    if operation.path == "/health" {
        by_status.insert("503".into(), plain_text("The server is stopping."));
    }
    Value::Object(by_status)
}

fn success(answer: &Answer, schemas: &mut Schemas) -> Value {
    let mut text = match &answer.content {
        Content::Nothing => json!({"description": "Done."}),
        Content::Text => plain_text("It does."),
        Content::Object => json!({"description": "An OpenAPI document.",
            "content": {"application/json": {"schema": {"type": "object"}}}}),
        Content::Archive => json!({"description": "A tar archive.",
            "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}),
        Content::Bytes => json!({"description": "What the file holds.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}),
        Content::Json(schema) => {
            let schema = schema(&mut schemas.written).to_value();
            json!({"description": reason(answer.status), "content": {"application/json": {"schema": schema}}})
        }
    };
    if !answer.headers.is_empty() {
        let headers: Map<String, Value> = answer
            .headers
            .iter()
            .map(|name| ((*name).to_owned(), json!({"schema": {"type": "string"}})))
            .collect();
        text["headers"] = headers.into();
    }
    text
}

fn plain_text(description: &str) -> Value {
    json!({"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}})
}

/// What can be done with a sandbox that was just created.
fn links(all: &[Operation]) -> Value {
    all.iter()
        .filter(|operation| operation.path.contains("{sandboxID}"))
        .map(|operation| {
            let link = json!({"operationId": operation.id, "parameters": {"sandboxID": "$response.body#/sandboxID"}});
            (operation.id.to_owned(), link)
        })
        .collect::<Map<_, _>>()
        .into()
}

fn refusal(status: u16, error: &schemars::Schema) -> Value {
    let description = StatusCode::from_u16(status).map_or("", reason);
    json!({"description": description, "content": {"application/json": {"schema": error}}})
}

fn reason(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or_default()
}

fn security(caller: Caller) -> Value {
    let (key, bearer, admin, team) = ("ApiKey", "Bearer", "AdminToken", "TeamOfAdmin");
    match caller {
        Caller::Anybody => json!([]),
        Caller::Team => json!([{key: []}, {bearer: []}, {admin: []}, {admin: [], team: []}]),
        Caller::TeamAdmin => json!([{admin: []}, {admin: [], team: []}]),
        Caller::Lister => json!([{bearer: []}, {admin: []}]),
        Caller::Operator => json!([{admin: []}]),
        Caller::Volume => json!([{"VolumeToken": []}]),
    }
}

fn credentials() -> Value {
    let header = |name: &str, description: &str| json!({"type": "apiKey", "in": "header", "name": name, "description": description});
    json!({
        "ApiKey": header("X-API-Key", "Acts for the key's team."),
        "Bearer": {"type": "http", "scheme": "bearer", "description": "An API key; there are no users yet."},
        "VolumeToken": {"type": "http", "scheme": "bearer", "description": "The token of one volume, from `getVolume`."},
        "AdminToken": header("X-Admin-Token", "The operator."),
        "TeamOfAdmin": header("X-Team-ID", "The team that the operator acts for; the default team when absent."),
    })
}

#[cfg(test)]
mod tests {
    use super::super::operations;
    use super::*;

    /// Every `$ref` in a value.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = write(&operations());
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn no_name_stands_for_two_types() {
        let mut schemas = Schemas::new();
        for operation in operations() {
            one(&operation, &[], &mut schemas);
        }
        let (_, torn) = schemas.into_components();
        assert!(torn.is_empty(), "{torn:?}");
    }
}
