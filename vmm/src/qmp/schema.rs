//! What a command takes and gives, and the introspection that generic clients read.
//!
//! Spec: QEMU docs/devel/qapi-code-gen.rst, "Client JSON Protocol introspection" (`query-qmp-schema`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

#[cfg(test)]
mod tests;

/// The type of an argument or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A string.
    Str,
    /// A whole number.
    Int,
    /// true or false.
    Bool,
    /// Anything.
    Any,
    /// One of these words.
    Enum(&'static str, &'static [&'static str]),
    /// An object of this name with these members.
    Object(&'static str, &'static [Member]),
    /// A list.
    Array(&'static Shape),
}

/// One member of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub shape: Shape,
    /// Whether it may be left out.
    pub optional: bool,
}

/// A member that must be there.
pub(super) const fn required(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        shape,
        optional: false,
    }
}

/// A member that may be left out.
pub(super) const fn optional(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        shape,
        optional: true,
    }
}

#[cfg(test)]
impl Shape {
    /// Whether a value has this shape, with nothing that the shape does not know; else what is wrong where.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        let fits = match (self, value) {
            (Shape::Str, Value::String(_)) | (Shape::Bool, Value::Bool(_)) | (Shape::Any, _) => {
                true
            }
            (Shape::Int, Value::Number(number)) => number.is_i64() || number.is_u64(),
            (Shape::Enum(_, words), Value::String(word)) => words.contains(&word.as_str()),
            (Shape::Array(element), Value::Array(values)) => {
                return values.iter().try_for_each(|value| element.check(value));
            }
            (Shape::Object(name, members), Value::Object(object)) => {
                let known = |key: &str| members.iter().any(|member| member.name == key);
                if let Some(key) = object.keys().find(|key| !known(key)) {
                    return Err(format!("{name} has no member {key}"));
                }
                return members.iter().try_for_each(|member| {
                    let place = |error| format!("{name}.{}: {error}", member.name);
                    match object.get(member.name) {
                        Some(value) => member.shape.check(value).map_err(place),
                        None if member.optional => Ok(()),
                        None => Err(place("is missing".to_owned())),
                    }
                });
            }
            _ => false,
        };
        fits.then_some(())
            .ok_or_else(|| format!("{value} is not {self:?}"))
    }
}

/// The object without members: a command's arguments or answer where it has none.
pub(super) const NOTHING: Shape = Shape::Object("q_empty", &[]);

/// Collects what introspection answers.
#[derive(Debug, Default)]
pub(super) struct Schema {
    entries: BTreeMap<String, Value>,
}

impl Schema {
    /// Adds a command.
    pub(super) fn command(&mut self, name: &str, arguments: &Shape, answer: &Shape) {
        let entry = json!({
            "name": name,
            "meta-type": "command",
            "arg-type": self.shape(arguments),
            "ret-type": self.shape(answer),
        });
        self.entries.insert(name.to_owned(), entry);
    }

    /// Adds an event.
    pub(super) fn event(&mut self, name: &str, data: &Shape) {
        let entry = json!({ "name": name, "meta-type": "event", "arg-type": self.shape(data) });
        self.entries.insert(name.to_owned(), entry);
    }

    /// Everything that was added and every type it names.
    pub(super) fn into_json(self) -> Value {
        Value::Array(self.entries.into_values().collect())
    }

    /// Adds a type and returns its name.
    fn shape(&mut self, shape: &Shape) -> String {
        if let Shape::Object(name, _) = shape {
            // A type may contain itself.
            if self.entries.contains_key(*name) {
                return (*name).to_owned();
            }
            self.entries.insert((*name).to_owned(), Value::Null);
        }
        let (name, entry) = match shape {
            Shape::Str => builtin("str", "string"),
            Shape::Int => builtin("int", "int"),
            Shape::Bool => builtin("bool", "boolean"),
            Shape::Any => builtin("any", "value"),
            Shape::Enum(name, words) => {
                let members: Vec<Value> =
                    words.iter().map(|word| json!({ "name": word })).collect();
                (
                    (*name).to_owned(),
                    json!({ "name": name, "meta-type": "enum", "members": members, "values": words }),
                )
            }
            Shape::Object(name, members) => {
                let members: Vec<Value> =
                    members.iter().map(|member| self.member(member)).collect();
                (
                    (*name).to_owned(),
                    json!({ "name": name, "meta-type": "object", "members": members }),
                )
            }
            Shape::Array(element) => {
                let element = self.shape(element);
                let name = format!("[{element}]");
                let entry = json!({ "name": name, "meta-type": "array", "element-type": element });
                (name, entry)
            }
        };
        self.entries.insert(name.clone(), entry);
        name
    }

    fn member(&mut self, member: &Member) -> Value {
        let shape = self.shape(&member.shape);
        if member.optional {
            json!({ "name": member.name, "type": shape, "default": null })
        } else {
            json!({ "name": member.name, "type": shape })
        }
    }
}

fn builtin(name: &str, json_type: &str) -> (String, Value) {
    (
        name.to_owned(),
        json!({ "name": name, "meta-type": "builtin", "json-type": json_type }),
    )
}
