//! The envelope of a request and of an answer.
//!
//! Spec: QMP §2.3 (commands), §2.4 (responses), §2.5 (events). Arguments are judged by the command they are for.
//! Not supported: out-of-band execution (`exec-oob`); the greeting does not offer it.

use serde_json::{Map, Value, json};

use super::errors::QmpError;
use super::json_text;

#[cfg(test)]
mod tests;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    /// The command's name.
    pub execute: String,
    /// Its arguments; empty when absent.
    pub arguments: Map<String, Value>,
    /// What the client wants back with the answer.
    pub id: Option<Value>,
}

/// A request that cannot be carried out, with the id to answer under if it had one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BadRequest {
    /// The id, where the text had one.
    pub id: Option<Value>,
    /// What is wrong.
    pub error: QmpError,
}

impl Request {
    /// Reads the envelope.
    pub(super) fn parse(text: &[u8]) -> Result<Request, BadRequest> {
        let without_id = |error| BadRequest { id: None, error };
        let value =
            json_text::parse(text).map_err(|error| without_id(QmpError::not_json(error)))?;
        let Value::Object(mut members) = value else {
            return Err(without_id(QmpError::not_an_object()));
        };
        let id = members.remove("id");
        match Request::members(members) {
            Ok((execute, arguments)) => Ok(Request {
                execute,
                arguments,
                id,
            }),
            Err(error) => Err(BadRequest { id, error }),
        }
    }

    fn members(mut members: Map<String, Value>) -> Result<(String, Map<String, Value>), QmpError> {
        let execute = match members.remove("execute") {
            Some(Value::String(name)) => Some(name),
            Some(_) => return Err(QmpError::member_type("execute", "a string")),
            None => None,
        };
        let arguments = match members.remove("arguments") {
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(QmpError::member_type("arguments", "an object")),
            None => Map::new(),
        };
        if let Some(name) = members.keys().next() {
            return Err(QmpError::unexpected_member(name));
        }
        Ok((execute.ok_or_else(QmpError::lacks_execute)?, arguments))
    }
}

/// The answer to a request, as one JSON object.
pub(super) fn answer(id: Option<&Value>, outcome: Result<Value, QmpError>) -> Value {
    let mut answer = match outcome {
        Ok(value) => json!({ "return": value }),
        Err(error) => json!({ "error": { "class": error.class.name(), "desc": error.desc } }),
    };
    if let (Some(id), Some(members)) = (id, answer.as_object_mut()) {
        members.insert("id".to_owned(), id.clone());
    }
    answer
}
