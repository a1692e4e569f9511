//! `-qmp`, `-chardev` with `-mon`, `-name`: where QMP clients connect.
//!
//! QMP has no passwords: whoever reaches the socket commands the machine. So TCP is on loopback only, and a Unix socket
//! is the owner's alone. The machine never waits for a client, and connects to nobody.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::device::MAX_SOCKET_PATH_BYTES;
use super::property_list::{PropertyError, PropertyList};

#[cfg(test)]
mod tests;

/// Most QMP sockets.
pub const MAX_MONITORS: usize = 8;
/// Standard streams and what comes before a descriptor that the operator may hand over.
const FIRST_FREE_FD: RawFd = 3;

/// Where QMP clients connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MonitorConfig {
    /// A Unix socket, made with mode 0600.
    Unix(PathBuf),
    /// A TCP port of this host, reachable from this host only.
    Tcp(SocketAddr),
    /// A listening socket that the operator has opened.
    Fd(RawFd),
}

/// `-qmp unix:PATH,server=on,wait=off` or `-qmp tcp:127.0.0.1:PORT,...`.
pub fn parse_qmp(text: &str) -> Result<MonitorConfig, ConfigError> {
    let refuse = |error: PropertyError| ConfigError::option("qmp", text, error);
    let mut properties = PropertyList::parse(text).map_err(refuse)?;
    let monitor = match properties.head.split_once(':') {
        Some(("unix", path)) => unix(path),
        Some(("tcp", address)) => tcp(address),
        Some(_) | None => Err(PropertyError(
            "write unix:PATH,server=on,wait=off or tcp:127.0.0.1:PORT,server=on,wait=off"
                .to_owned(),
        )),
    };
    listening(&mut properties).map_err(refuse)?;
    properties.finish().map_err(refuse)?;
    monitor.map_err(refuse)
}

/// All monitors: those of `-qmp`, then those of `-mon`, each with its `-chardev`.
pub fn parse_all(
    qmp: &[String],
    chardevs: &[String],
    mons: &[String],
) -> Result<Vec<MonitorConfig>, ConfigError> {
    let mut monitors = qmp
        .iter()
        .map(|text| parse_qmp(text))
        .collect::<Result<Vec<_>, _>>()?;
    let mut chardevs = chardevs
        .iter()
        .map(|text| Ok((text, chardev(text)?)))
        .collect::<Result<Vec<_>, ConfigError>>()?;
    for text in mons {
        let id = mon(text).map_err(|error| ConfigError::option("mon", text, error))?;
        let Some(index) = chardevs.iter().position(|(_, (found, _))| *found == id) else {
            let reason = format!(
                "there is no -chardev with id={id}, or another -mon has it; one chardev serves one monitor"
            );
            return Err(ConfigError::option("mon", text, reason));
        };
        let (_, (_, monitor)) = chardevs.remove(index);
        monitors.push(monitor);
    }
    if let Some((text, _)) = chardevs.first() {
        let reason = "nothing uses it; add -mon chardev=ID,mode=control";
        return Err(ConfigError::option("chardev", text, reason));
    }
    if monitors.len() > MAX_MONITORS {
        return Err(ConfigError::Missing(format!(
            "{} QMP sockets: at most {MAX_MONITORS} are allowed; one takes several clients",
            monitors.len()
        )));
    }
    Ok(monitors)
}

/// `-name NAME` or `-name guest=NAME`.
pub fn parse_name(text: &str) -> Result<String, ConfigError> {
    let refuse = |error: PropertyError| ConfigError::option("name", text, error);
    let mut properties = PropertyList::parse_with_head_key(text, "guest").map_err(refuse)?;
    let name = properties.take_required("guest", "vm1").map_err(refuse)?;
    // libvirt writes it; our threads always have names.
    let _named = properties.take_switch("debug-threads").map_err(refuse)?;
    properties.finish().map_err(refuse)?;
    Ok(name)
}

fn chardev(text: &str) -> Result<(String, MonitorConfig), ConfigError> {
    let parse = || {
        let mut properties = PropertyList::parse(text)?;
        if properties.head != "socket" {
            return Err(PropertyError(format!(
                "\"{}\" is not supported; the only kind there is is socket",
                properties.head
            )));
        }
        let id = properties.take_required("id", "mon0")?;
        let (path, fd) = (properties.take("path"), properties.take("fd"));
        let (host, port) = (properties.take("host"), properties.take("port"));
        listening(&mut properties)?;
        properties.finish()?;
        let monitor = match (path, fd, host, port) {
            (Some(path), None, None, None) => unix(&path)?,
            (None, Some(fd), None, None) => MonitorConfig::Fd(descriptor(&fd)?),
            (None, None, host, Some(port)) => tcp(&format!("{}:{port}", host.unwrap_or_default()))?,
            _ => {
                return Err(PropertyError(
                    "write one of path=PATH, fd=NUMBER, or host=127.0.0.1,port=NUMBER".to_owned(),
                ));
            }
        };
        Ok((id, monitor))
    };
    parse().map_err(|error| ConfigError::option("chardev", text, error))
}

fn mon(text: &str) -> Result<String, PropertyError> {
    let mut properties = PropertyList::parse_with_head_key(text, "chardev")?;
    let id = properties.take_required("chardev", "mon0")?;
    let mode = properties.take("mode");
    // libvirt names its monitors; nothing refers to the name.
    let _named = properties.take("id");
    let _pretty = properties.take_switch("pretty")?;
    properties.finish()?;
    match mode.as_deref() {
        Some("control") => Ok(id),
        Some(_) | None => Err(PropertyError(
            "the only kind of monitor there is is QMP; write mode=control".to_owned(),
        )),
    }
}

/// `server` and `nowait`, in the old and in the new spelling.
fn listening(properties: &mut PropertyList) -> Result<(), PropertyError> {
    let server = properties.take_switch("server")?.unwrap_or(false);
    let nowait = properties.take_switch("nowait")?.unwrap_or(false);
    let wait = properties.take_switch("wait")?.unwrap_or(!nowait);
    if !server {
        return Err(PropertyError(
            "the machine listens and never connects; add server=on,wait=off".to_owned(),
        ));
    }
    if wait {
        return Err(PropertyError(
            "the machine never waits for a client; add wait=off".to_owned(),
        ));
    }
    Ok(())
}

fn unix(path: &str) -> Result<MonitorConfig, PropertyError> {
    socket_path(path).map(MonitorConfig::Unix)
}

fn socket_path(path: &str) -> Result<PathBuf, PropertyError> {
    if path.is_empty() || path.len() > MAX_SOCKET_PATH_BYTES {
        return Err(PropertyError(format!(
            "a socket path has 1 to {MAX_SOCKET_PATH_BYTES} bytes"
        )));
    }
    Ok(PathBuf::from(path))
}

fn tcp(address: &str) -> Result<MonitorConfig, PropertyError> {
    let address: Option<SocketAddr> = match address.rsplit_once(':') {
        Some(("localhost", port)) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        _ => address.parse().ok(),
    };
    address
        .filter(|address| address.ip().is_loopback())
        .map(MonitorConfig::Tcp)
        .ok_or_else(|| {
            PropertyError(
                "QMP has no passwords, so it listens on loopback only; write tcp:127.0.0.1:PORT, or use a Unix socket"
                    .to_owned(),
            )
        })
}

fn descriptor(text: &str) -> Result<RawFd, PropertyError> {
    text.parse()
        .ok()
        .filter(|number| *number >= FIRST_FREE_FD)
        .ok_or_else(|| {
            PropertyError(format!(
                "fd={text}: write the number of an inherited listening socket, {FIRST_FREE_FD} or more"
            ))
        })
}
