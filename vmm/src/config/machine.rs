//! `-machine`, `-cpu`, `-smp`, `-serial` and the log.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use telemetry::log::Format;

use super::ConfigError;
use super::property_list::{PropertyError, PropertyList};

#[cfg(test)]
mod tests;

/// Most vCPUs.
pub const MAX_CPUS: u8 = 32;
/// COM1 and COM2.
pub const MAX_SERIAL_PORTS: usize = 2;
/// Longest kernel command line in bytes: what Linux takes on x86 (COMMAND_LINE_SIZE) without its final zero.
pub const MAX_APPEND_BYTES: usize = 2047;
/// Longest socket path in bytes (unix(7): 108 with the final zero).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The board. There is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Machine {
    /// A PCIe root complex with ECAM, ACPI and no firmware.
    Q35,
}

/// Where a serial port leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SerialConfig {
    /// The terminal.
    Stdio,
    /// A file, written from its beginning.
    File(PathBuf),
    /// A Unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Listen there (the default) or connect to it.
        server: bool,
    },
    /// Nowhere.
    None,
}

/// What is logged, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// Text, JSON or the journal.
    pub format: Format,
    /// error, warn, info, debug, trace, or levels per module.
    pub level: String,
    /// `-D`; standard error without it.
    pub file: Option<PathBuf>,
}

/// `-machine`: the board and the id of its memory backend, if one is named.
pub fn parse_machine(text: &str) -> Result<(Machine, Option<String>), ConfigError> {
    let refuse = |error: PropertyError| ConfigError::option("machine", text, error);
    let mut properties = PropertyList::parse_with_head_key(text, "type").map_err(refuse)?;
    let kind = properties.take_required("type", "q35").map_err(refuse)?;
    let accel = properties.take("accel");
    let backend = properties.take("memory-backend");
    properties.finish().map_err(refuse)?;
    if kind != "q35" {
        return Err(ConfigError::option(
            "machine",
            text,
            "the only machine there is is q35",
        ));
    }
    if accel.is_some_and(|accel| accel != "kvm") {
        return Err(ConfigError::option(
            "machine",
            text,
            "the only accelerator there is is kvm",
        ));
    }
    Ok((Machine::Q35, backend))
}

/// `-cpu`: only the host's.
pub fn parse_cpu(text: &str) -> Result<(), ConfigError> {
    if text == "host" {
        return Ok(());
    }
    Err(ConfigError::option(
        "cpu",
        text,
        "the only CPU model there is is host",
    ))
}

/// Whether a kernel takes this command line; why not.
pub fn check_append(append: &str) -> Result<(), String> {
    if append.len() <= MAX_APPEND_BYTES && !append.contains('\0') {
        return Ok(());
    }
    Err(format!(
        "{} bytes; a kernel takes at most {MAX_APPEND_BYTES}, without zeros",
        append.len()
    ))
}

/// `-smp N` or `-smp cpus=N`.
pub fn parse_smp(text: &str) -> Result<u8, ConfigError> {
    let refuse = |error: PropertyError| ConfigError::option("smp", text, error);
    let mut properties = PropertyList::parse_with_head_key(text, "cpus").map_err(refuse)?;
    let cpus = properties.take_required("cpus", "2").map_err(refuse)?;
    properties.finish().map_err(refuse)?;
    let digits = cpus.chars().all(|c| c.is_ascii_digit());
    match cpus.parse() {
        Ok(cpus @ 1..=MAX_CPUS) if digits => Ok(cpus),
        _ => Err(ConfigError::option(
            "smp",
            text,
            format!("write a number of CPUs from 1 to {MAX_CPUS}"),
        )),
    }
}

impl SerialConfig {
    /// Parses `stdio`, `file:PATH`, `unix:PATH[,server=on|off][,wait=off]` or `none`.
    pub fn parse(text: &str) -> Result<SerialConfig, ConfigError> {
        let refuse = |reason: &str| Err(ConfigError::option("serial", text, reason));
        match text.split_once(':') {
            None if text == "stdio" => Ok(SerialConfig::Stdio),
            None if text == "none" => Ok(SerialConfig::None),
            Some(("file" | "unix", "")) => refuse("the path is missing"),
            Some(("file", path)) => Ok(SerialConfig::File(PathBuf::from(path))),
            Some(("unix", rest)) => {
                parse_unix(rest).map_err(|error| ConfigError::option("serial", text, error))
            }
            Some(_) | None => refuse("write stdio, file:PATH, unix:PATH or none"),
        }
    }
}

fn parse_unix(text: &str) -> Result<SerialConfig, PropertyError> {
    let mut properties = PropertyList::parse(text)?;
    let path = PathBuf::from(&properties.head);
    let server = properties.take_switch("server")?.unwrap_or(true);
    let wait = properties.take_switch("wait")?.unwrap_or(false);
    properties.finish()?;
    if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(PropertyError(format!(
            "a socket path has at most {MAX_SOCKET_PATH_BYTES} bytes"
        )));
    }
    if wait {
        return Err(PropertyError(
            "wait=on: the machine never waits for a client; write wait=off".to_owned(),
        ));
    }
    Ok(SerialConfig::Unix { path, server })
}
