//! A command's arguments, taken out one by one; what is left over is an error.

use serde_json::{Map, Value};

use super::errors::QmpError;

/// The arguments of one request.
#[derive(Debug)]
pub(super) struct Arguments(Map<String, Value>);

impl Arguments {
    /// All of them.
    pub(super) fn new(arguments: Map<String, Value>) -> Arguments {
        Arguments(arguments)
    }

    /// A string that must be there.
    pub(super) fn string(&mut self, name: &str) -> Result<String, QmpError> {
        self.optional_string(name)?
            .ok_or_else(|| QmpError::missing_parameter(name))
    }

    /// A string that may be there.
    pub(super) fn optional_string(&mut self, name: &str) -> Result<Option<String>, QmpError> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(_) => Err(QmpError::parameter_type(name, "string")),
        }
    }

    /// A boolean; false when absent.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, QmpError> {
        match self.0.remove(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(QmpError::parameter_type(name, "boolean")),
        }
    }

    /// A list; empty when absent.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Value>, QmpError> {
        match self.0.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(QmpError::parameter_type(name, "array")),
        }
    }

    /// All that is left, for a command that judges its arguments itself.
    pub(super) fn take_all(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.0)
    }

    /// Nothing may be left.
    pub(super) fn none(&self) -> Result<(), QmpError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(QmpError::unexpected_parameter(name)),
        }
    }
}
