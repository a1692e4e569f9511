//! `-device-policy`: what a machine may be given while it runs, beside what its command line names.
//!
//! One rule per option, or a file with one rule per line; empty lines and lines that begin with # say nothing.
//! Limits: [`MAX_FILE_BYTES`] per file, [`MAX_RULES`] altogether.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use protocol::pci::PciAddress;
use protocol::supervisor::{HostOptions, MAX_IMAGE_PATH_BYTES};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::device::{check_path, check_socket_path, host_options, managed, pci_address};
use super::property_list::{PropertyError, PropertyList};

#[cfg(test)]
mod tests;

/// Largest policy file in bytes: about a thousand rules.
pub const MAX_FILE_BYTES: usize = 64 << 10;
/// Most rules of a machine.
pub const MAX_RULES: usize = 1024;

/// What a machine may be given while it runs, beside what its command line names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyRule {
    /// A host device.
    Host {
        /// Its address.
        #[serde(with = "pci_address")]
        host: PciAddress,
        /// With at most these.
        options: HostOptions,
    },
    /// A vfio-user socket.
    Socket(PathBuf),
    /// A kernel or an initrd to boot at a reset.
    Image(PathBuf),
}

/// The rules of all these options.
pub fn parse_all(options: &[String]) -> Result<Vec<PolicyRule>, ConfigError> {
    let mut rules = Vec::new();
    for option in options {
        let parsed = if option.contains('=') {
            rule(option).map(|rule| vec![rule])
        } else {
            file(Path::new(option))
        };
        rules.extend(parsed.map_err(|error| refuse(option, error))?);
    }
    if rules.len() > MAX_RULES {
        return Err(ConfigError::Missing(format!(
            "-device-policy: {} rules; a machine has at most {MAX_RULES}",
            rules.len()
        )));
    }
    Ok(rules)
}

fn refuse(option: &str, error: PropertyError) -> ConfigError {
    ConfigError::option("device-policy", option, error)
}

/// `allow-host=ADDRESS[,allow-no-reset=on][,allow-noncoherent=on][,bar-mmap=off|force][,managed=on]` `allow-socket=PATH` or `allow-image=PATH`.
fn rule(text: &str) -> Result<PolicyRule, PropertyError> {
    let mut properties = PropertyList::parse_with_head_key(text, "rule")?;
    let (host, socket, image) = (
        properties.take("allow-host"),
        properties.take("allow-socket"),
        properties.take("allow-image"),
    );
    let rule = match (host, socket, image) {
        (Some(host), None, None) => PolicyRule::Host {
            host: host
                .parse()
                .map_err(|error| PropertyError(format!("allow-host: {error}")))?,
            options: HostOptions {
                managed: managed(&mut properties)?,
                ..host_options(&mut properties)?
            },
        },
        (None, Some(path), None) => {
            check_socket_path("allow-socket", &path)?;
            PolicyRule::Socket(PathBuf::from(path))
        }
        (None, None, Some(path)) => {
            check_image_path("allow-image", &path)?;
            PolicyRule::Image(PathBuf::from(path))
        }
        _ => {
            return Err(PropertyError(
                "write allow-host=ADDRESS, allow-socket=PATH or allow-image=PATH, one per option or line".to_owned(),
            ));
        }
    };
    properties.finish()?;
    Ok(rule)
}

/// Whether the supervisor can be asked for an image at this path.
pub fn check_image_path(key: &str, path: &str) -> Result<(), PropertyError> {
    check_path(key, path, MAX_IMAGE_PATH_BYTES)
}

fn file(path: &Path) -> Result<Vec<PolicyRule>, PropertyError> {
    let text = read(path).map_err(|error| {
        PropertyError(format!(
            "{error}; give a file with one rule per line, or write allow-host=ADDRESS, allow-socket=PATH or allow-image=PATH"
        ))
    })?;
    let mut rules = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = rule(line);
        rules.push(
            parsed.map_err(|error| PropertyError(format!("line {number}: {line}: {error}")))?,
        );
    }
    if rules.is_empty() {
        return Err(PropertyError(
            "the file has no rule; write allow-host=ADDRESS, allow-socket=PATH or allow-image=PATH, one per line"
                .to_owned(),
        ));
    }
    Ok(rules)
}

/// A regular file whole; anything else is refused and never waited for.
fn read(path: &Path) -> io::Result<String> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    let limit = u64::try_from(MAX_FILE_BYTES).map_err(io::Error::other)?;
    file.take(limit + 1).read_to_string(&mut text)?;
    if text.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!(
            "it has more than {MAX_FILE_BYTES} bytes"
        )));
    }
    Ok(text)
}
