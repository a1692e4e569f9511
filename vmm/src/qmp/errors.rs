//! The text and class of every QMP error.
//!
//! Spec: QMP §2.4.2. QEMU's wording is used where QEMU has the same error, since scripts match on it.

use std::error::Error;
use std::fmt::Display;

use super::json_stream::{Broken, MAX_REQUEST_BYTES};
use crate::one_line::one_line;

/// The error class. Everything but the two classes that clients act on is `GenericError`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Everything else.
    GenericError,
    /// No such command, or not now.
    CommandNotFound,
    /// No device with this id.
    DeviceNotFound,
}

impl Class {
    /// As it stands on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Class::GenericError => "GenericError",
            Class::CommandNotFound => "CommandNotFound",
            Class::DeviceNotFound => "DeviceNotFound",
        }
    }
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpError {
    /// The class.
    pub class: Class,
    /// The whole cause chain in one line.
    pub desc: String,
}

impl QmpError {
    /// A `GenericError`.
    pub fn generic(desc: impl Into<String>) -> QmpError {
        QmpError {
            class: Class::GenericError,
            desc: desc.into(),
        }
    }

    /// A `GenericError` with the causes of `error`.
    pub fn from_chain(error: &dyn Error) -> QmpError {
        QmpError::generic(one_line(error))
    }

    /// A text that is no JSON, and what is wrong with it.
    pub fn not_json(what: impl Display) -> QmpError {
        QmpError::generic(format!("JSON parse error, {what}"))
    }

    /// Bytes that cannot become a JSON value.
    pub(super) fn broken(why: Broken) -> QmpError {
        match why {
            Broken::TooLong => QmpError::not_json(format_args!(
                "request longer than {MAX_REQUEST_BYTES} bytes"
            )),
            Broken::TooDeep => QmpError::generic("JSON nesting depth limit exceeded"),
            Broken::Stray(byte) => QmpError::not_json(format_args!("stray byte {byte:#04x}")),
        }
    }

    /// A value that is no object.
    pub fn not_an_object() -> QmpError {
        QmpError::generic("QMP input must be a JSON object")
    }

    /// A member of the envelope that does not belong there.
    pub fn unexpected_member(name: &str) -> QmpError {
        QmpError::generic(format!("QMP input member '{name}' is unexpected"))
    }

    /// A member of the envelope of the wrong type.
    pub fn member_type(name: &str, expected: &str) -> QmpError {
        QmpError::generic(format!("QMP input member '{name}' must be {expected}"))
    }

    /// No `execute`.
    pub fn lacks_execute() -> QmpError {
        QmpError::generic("QMP input lacks member 'execute'")
    }

    /// A command before `qmp_capabilities`.
    pub fn not_negotiated() -> QmpError {
        let desc = "Expecting capabilities negotiation with 'qmp_capabilities'".to_owned();
        QmpError {
            class: Class::CommandNotFound,
            desc,
        }
    }

    /// `qmp_capabilities` again.
    pub fn negotiated_already() -> QmpError {
        let desc = "Capabilities negotiation is already complete, command ignored".to_owned();
        QmpError {
            class: Class::CommandNotFound,
            desc,
        }
    }

    /// No such command.
    pub fn unknown_command(name: &str) -> QmpError {
        let desc = format!("The command {name} has not been found");
        QmpError {
            class: Class::CommandNotFound,
            desc,
        }
    }

    /// No device with this id.
    pub fn unknown_device(id: &str) -> QmpError {
        QmpError {
            class: Class::DeviceNotFound,
            desc: format!("Device '{id}' not found"),
        }
    }

    /// An argument that is missing.
    pub fn missing_parameter(name: &str) -> QmpError {
        QmpError::generic(format!("Parameter '{name}' is missing"))
    }

    /// An argument that the command does not take.
    pub fn unexpected_parameter(name: &str) -> QmpError {
        QmpError::generic(format!("Parameter '{name}' is unexpected"))
    }

    /// An argument of the wrong type.
    pub fn parameter_type(name: &str, expected: &str) -> QmpError {
        QmpError::generic(format!(
            "Invalid parameter type for '{name}', expected: {expected}"
        ))
    }
}
