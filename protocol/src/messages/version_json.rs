//! The JSON text of VERSION.
//!
//! Spec: vfio-user, "VFIO_USER_VERSION", "Capabilities". Unknown keys are ignored, a key given twice counts the last
//! time, everything else that is odd is refused: no final NUL, a NUL inside, text behind the object, wrong types.
//! Limits: `MAX_VERSION_JSON_BYTES`; nesting is bounded by serde_json (128 levels).

use crate::codec::Put;
use crate::limits::{self, MAX_VERSION_JSON_BYTES};
use crate::messages::version::{Capabilities, Migration, Sender, TwinSocket};
use crate::refusal::BadField;
use serde_json::{Map, Value};

/// Reads what follows the two version numbers: nothing, or text and a NUL.
pub(crate) fn decode(text: &[u8], sender: Sender) -> Result<Capabilities, BadField> {
    if text.is_empty() {
        return Ok(Capabilities::UNSTATED);
    }
    if text.len() > MAX_VERSION_JSON_BYTES {
        return Err(BadField::length("length of the version JSON", text.len()));
    }
    let Some((0, json)) = text.split_last() else {
        return Err(bad("final NUL of the version JSON (missing)"));
    };
    let Ok(json) = std::str::from_utf8(json) else {
        return Err(bad("version JSON (not UTF-8)"));
    };
    let Ok(Value::Object(top)) = serde_json::from_str(json) else {
        return Err(bad("version JSON (not one valid object)"));
    };
    match top.get("capabilities") {
        None => Ok(Capabilities::UNSTATED),
        Some(Value::Object(keys)) => capabilities(keys, sender),
        Some(_) => Err(bad("capabilities (not an object)")),
    }
}

fn capabilities(keys: &Map<String, Value>, sender: Sender) -> Result<Capabilities, BadField> {
    let unstated = Capabilities::UNSTATED;
    let max_data_xfer_size = number(keys, "max_data_xfer_size")?
        .map_or(unstated.max_data_xfer_size, |n| {
            clamp(n, limits::MAX_DATA_XFER_BYTES)
        });
    if max_data_xfer_size == 0 {
        return Err(bad("max_data_xfer_size"));
    }
    let kernel_max_fds = u32::try_from(limits::KERNEL_MAX_FDS).unwrap_or(u32::MAX);
    Ok(Capabilities {
        max_msg_fds: number(keys, "max_msg_fds")?
            .map_or(unstated.max_msg_fds, |n| clamp(n, kernel_max_fds)),
        max_data_xfer_size,
        max_dma_maps: number(keys, "max_dma_maps")?
            .map_or(unstated.max_dma_maps, |n| clamp(n, limits::MAX_DMA_MAPS)),
        pgsizes: pgsizes(keys)?,
        twin_socket: twin_socket(keys, sender)?,
        write_multiple: boolean(keys, "write_multiple")?,
        migration: migration(keys)?,
    })
}

fn pgsizes(keys: &Map<String, Value>) -> Result<u64, BadField> {
    let sizes = number(keys, "pgsizes")?.unwrap_or(Capabilities::UNSTATED.pgsizes);
    let below_page = sizes & (limits::PAGE_BYTES - 1);
    if sizes == 0 || below_page != 0 {
        return Err(BadField::invalid("pgsizes", sizes));
    }
    Ok(sizes)
}

fn twin_socket(keys: &Map<String, Value>, sender: Sender) -> Result<TwinSocket, BadField> {
    let twin = match keys.get("twin_socket") {
        None => return Ok(TwinSocket::Unsupported),
        Some(Value::Object(twin)) => twin,
        Some(_) => return Err(bad("twin_socket (not an object)")),
    };
    match (boolean(twin, "supported")?, sender) {
        (false, _) => Ok(TwinSocket::Unsupported),
        (true, Sender::Client) => Ok(TwinSocket::Supported),
        (true, Sender::Server) => {
            let index = number(twin, "fd_index")?.ok_or_else(|| bad("fd_index (missing)"))?;
            let index = u32::try_from(index).map_err(|_| BadField::invalid("fd_index", index))?;
            Ok(TwinSocket::Fd(index))
        }
    }
}

fn migration(keys: &Map<String, Value>) -> Result<Option<Migration>, BadField> {
    let migration = match keys.get("migration") {
        None => return Ok(None),
        Some(Value::Object(migration)) => migration,
        Some(_) => return Err(bad("migration (not an object)")),
    };
    let pgsize = number(migration, "pgsize")?.unwrap_or(limits::PAGE_BYTES);
    if !pgsize.is_power_of_two() {
        return Err(BadField::invalid("migration.pgsize", pgsize));
    }
    Ok(Some(Migration { pgsize }))
}

/// A whole number that is not negative. What does not fit 64 bits counts as the largest number.
fn number(keys: &Map<String, Value>, key: &'static str) -> Result<Option<u64>, BadField> {
    /// 2^64: from here on serde_json keeps whole numbers as floats.
    const TOO_LARGE_FOR_U64: f64 = 18_446_744_073_709_551_616.0;
    let Some(value) = keys.get(key) else {
        return Ok(None);
    };
    match (value.as_u64(), value.as_f64()) {
        (Some(whole), _) => Ok(Some(whole)),
        (None, Some(large)) if large >= TOO_LARGE_FOR_U64 => Ok(Some(u64::MAX)),
        (None, _) => Err(bad(key)),
    }
}

fn boolean(keys: &Map<String, Value>, key: &'static str) -> Result<bool, BadField> {
    match keys.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(bad(key)),
    }
}

fn clamp(number: u64, most: u32) -> u32 {
    u32::try_from(number).map_or(most, |n| n.min(most))
}

fn bad(field: &'static str) -> BadField {
    BadField::invalid(field, 0u32)
}

/// Appends compact text and its NUL. Always has `capabilities`: one peer cannot parse an answer without.
pub(crate) fn encode(capabilities: &Capabilities, out: &mut Vec<u8>) {
    let mut keys = Map::new();
    keys.insert("max_msg_fds".into(), capabilities.max_msg_fds.into());
    keys.insert(
        "max_data_xfer_size".into(),
        capabilities.max_data_xfer_size.into(),
    );
    keys.insert("max_dma_maps".into(), capabilities.max_dma_maps.into());
    keys.insert("pgsizes".into(), capabilities.pgsizes.into());
    if capabilities.write_multiple {
        keys.insert("write_multiple".into(), true.into());
    }
    if let Some(twin) = twin_socket_value(capabilities.twin_socket) {
        keys.insert("twin_socket".into(), twin);
    }
    if let Some(migration) = capabilities.migration {
        keys.insert(
            "migration".into(),
            serde_json::json!({ "pgsize": migration.pgsize }),
        );
    }
    let text = serde_json::json!({ "capabilities": keys }).to_string();
    out.put_bytes(text.as_bytes());
    out.push(0);
}

fn twin_socket_value(twin: TwinSocket) -> Option<Value> {
    match twin {
        TwinSocket::Unsupported => None,
        TwinSocket::Supported => Some(serde_json::json!({ "supported": true })),
        TwinSocket::Fd(index) => Some(serde_json::json!({ "supported": true, "fd_index": index })),
    }
}
