//! `driver,key=value,key=value`: the way QEMU writes properties.
//!
//! A comma inside a value is written twice. Keys are strict: one that nobody asked for is an error that names the keys
//! there are, and so is one that is given twice.

use std::fmt;

#[cfg(test)]
mod tests;

/// Most properties of one option; far above any real line.
pub const MAX_PROPERTIES: usize = 64;

/// The properties of one option, taken one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropertyList {
    /// What comes first without a key: the driver, the kind of object, the machine.
    pub head: String,
    properties: Vec<(String, String)>,
    asked: Vec<&'static str>,
}

/// The value of a switch that has one value more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchOr {
    /// `on`.
    On,
    /// `off`.
    Off,
    /// The other one.
    Word,
}

/// A property list that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropertyError(pub String);

impl PropertyList {
    /// Parses `head,key=value,...`. A key without `=` is a switch that is on, as in QEMU.
    pub fn parse(text: &str) -> Result<PropertyList, PropertyError> {
        let mut parts = split(text).into_iter();
        let head = parts.next().unwrap_or_default();
        if head.contains('=') {
            return Err(PropertyError(format!(
                "it begins with \"{head}\"; the name comes first, then ,key=value"
            )));
        }
        let properties = parts
            .map(|part| key_and_value(&part))
            .collect::<Result<_, _>>()?;
        PropertyList::new(head, properties)
    }

    /// The same for an option whose first part may also have a key (`-m 512M`, `-m size=512M`): `head_key` names it.
    pub fn parse_with_head_key(text: &str, head_key: &str) -> Result<PropertyList, PropertyError> {
        let mut parts = split(text).into_iter();
        let mut properties = Vec::new();
        match parts.next() {
            Some(first) if first.contains('=') => properties.push(key_and_value(&first)?),
            Some(first) => properties.push((head_key.to_owned(), first)),
            None => {}
        }
        for part in parts {
            properties.push(key_and_value(&part)?);
        }
        PropertyList::new(String::new(), properties)
    }

    /// From properties that came some other way.
    pub fn new(
        head: String,
        properties: Vec<(String, String)>,
    ) -> Result<PropertyList, PropertyError> {
        if properties.len() > MAX_PROPERTIES {
            return Err(PropertyError(format!(
                "it has more than {MAX_PROPERTIES} properties"
            )));
        }
        for (index, (key, _)) in properties.iter().enumerate() {
            if properties
                .iter()
                .skip(index + 1)
                .any(|(other, _)| other == key)
            {
                return Err(PropertyError(format!("{key} is given twice")));
            }
        }
        Ok(PropertyList {
            head,
            properties,
            asked: Vec::new(),
        })
    }

    /// Takes the value of `key`, if it is given.
    pub fn take(&mut self, key: &'static str) -> Option<String> {
        self.asked.push(key);
        let index = self.properties.iter().position(|(name, _)| name == key)?;
        Some(self.properties.remove(index).1)
    }

    /// Takes the value of `key`; an error if it is missing or empty.
    pub fn take_required(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Result<String, PropertyError> {
        match self.take(key) {
            Some(value) if !value.is_empty() => Ok(value),
            Some(_) => Err(PropertyError(format!(
                "{key} is empty; give for example {key}={example}"
            ))),
            None => Err(PropertyError(format!(
                "{key} is missing; give for example {key}={example}"
            ))),
        }
    }

    /// Takes a switch: on, off, true, false, yes or no.
    pub fn take_switch(&mut self, key: &'static str) -> Result<Option<bool>, PropertyError> {
        self.take(key).map(|value| switch(key, &value)).transpose()
    }

    /// Takes an on/off switch that may also have one other value.
    pub fn take_switch_or(
        &mut self,
        key: &'static str,
        word: &'static str,
    ) -> Result<Option<SwitchOr>, PropertyError> {
        let value = self.take(key);
        if value.as_deref() == Some(word) {
            return Ok(Some(SwitchOr::Word));
        }
        let switch = value.map(|value| switch(key, &value)).transpose();
        let switch = switch.map_err(|error| PropertyError(format!("{}, or {word}", error.0)))?;
        Ok(switch.map(|on| if on { SwitchOr::On } else { SwitchOr::Off }))
    }

    /// Ends the reading: anything not taken is unknown.
    pub fn finish(self) -> Result<(), PropertyError> {
        let Some((key, _)) = self.properties.first() else {
            return Ok(());
        };
        let mut known = self.asked;
        known.sort_unstable();
        known.dedup();
        Err(PropertyError(format!(
            "unknown property \"{key}\"; known: {}",
            known.join(", ")
        )))
    }
}

fn switch(key: &str, value: &str) -> Result<bool, PropertyError> {
    match value {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(PropertyError(format!("{key}={value}: write on or off"))),
    }
}

/// Splits at single commas; a double comma stands for one.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

fn key_and_value(part: &str) -> Result<(String, String), PropertyError> {
    let (key, value) = part.split_once('=').unwrap_or((part, "on"));
    if key.is_empty() {
        return Err(PropertyError(format!(
            "\"{part}\" is no property; write key=value"
        )));
    }
    Ok((key.to_owned(), value.to_owned()))
}

impl fmt::Display for PropertyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PropertyError {}
