//! `-device '{"driver":"vfio-user-pci","socket":{"path":"/run/x.sock","type":"unix"},...}'`: QEMU's JSON form.
//!
//! It becomes the same [`PropertyList`] as the plain form, so that both have the same keys and the same errors. Numbers
//! are written out in decimal, true and false as on and off. `socket` may be QEMU's SocketAddress object; only
//! `unix` with a `path` is supported.

use serde_json::{Map, Value};

use super::property_list::{PropertyError, PropertyList};

#[cfg(test)]
mod tests;

/// Whether an option's value is meant as JSON.
pub fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// Parses a JSON object with a `driver`.
pub fn parse(text: &str) -> Result<PropertyList, PropertyError> {
    let object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| PropertyError(format!("not a JSON object: {error}")))?;
    from_object(object)
}

/// The same for an object that is parsed already (QMP).
pub fn from_object(mut object: Map<String, Value>) -> Result<PropertyList, PropertyError> {
    let driver = match object.remove("driver") {
        Some(Value::String(driver)) => driver,
        Some(_) => return Err(PropertyError("driver must be a string".to_owned())),
        None => {
            return Err(PropertyError(
                "driver is missing; give for example \"driver\":\"vfio-pci\"".to_owned(),
            ));
        }
    };
    let mut properties = Vec::new();
    for (key, value) in object {
        let value = match value {
            Value::Object(address) if key == "socket" => socket_path(address)?,
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(on) => String::from(if on { "on" } else { "off" }),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                return Err(PropertyError(format!(
                    "{key} must be a string, a number or a boolean"
                )));
            }
        };
        properties.push((key, value));
    }
    PropertyList::new(driver, properties)
}

fn socket_path(mut address: Map<String, Value>) -> Result<String, PropertyError> {
    let expected = || PropertyError("socket must be {\"type\":\"unix\",\"path\":PATH}".to_owned());
    if address.remove("type") != Some(Value::String("unix".to_owned())) {
        return Err(expected());
    }
    match (address.remove("path"), address.is_empty()) {
        (Some(Value::String(path)), true) => Ok(path),
        _ => Err(expected()),
    }
}
