//! What `query-pci` answers: QEMU's PciInfo, without BAR addresses.
//!
//! Spec: QEMU qapi/pci.json. `regions` is always empty: the guest moves BARs as it likes.

use serde_json::{Value, json};

use crate::pci::FunctionState;

const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const CLASS: usize = 0x0a;
const INTERRUPT_PIN: usize = 0x3d;

/// All buses: the root bus, with what is behind each port inside the port.
pub(super) fn answer(functions: &[FunctionState]) -> Value {
    let root: Vec<Value> = functions
        .iter()
        .filter(|function| function.bus == 0)
        .map(|function| device(function, functions))
        .collect();
    json!([{ "bus": 0, "devices": root }])
}

fn device(function: &FunctionState, all: &[FunctionState]) -> Value {
    let word = |at: usize| {
        let bytes = function.header.get(at..at + 2);
        bytes.map_or(0xffff, |bytes| {
            u16::from_le_bytes(bytes.try_into().unwrap_or([0xff; 2]))
        })
    };
    let mut answer = json!({
        "bus": function.bus,
        "slot": function.devfn >> 3,
        "function": function.devfn & 7,
        "class_info": { "class": word(CLASS) },
        "id": { "vendor": word(VENDOR), "device": word(DEVICE) },
        "irq_pin": function.header.get(INTERRUPT_PIN),
        "qdev_id": function.id,
        "regions": [],
    });
    if let (Some((secondary, subordinate)), Some(object)) = (function.buses, answer.as_object_mut())
    {
        let behind: Vec<Value> = all
            .iter()
            .filter(|other| secondary != 0 && other.bus == secondary)
            .map(|other| device(other, &[]))
            .collect();
        let bus =
            json!({ "number": function.bus, "secondary": secondary, "subordinate": subordinate });
        object.insert(
            "pci_bridge".to_owned(),
            json!({ "bus": bus, "devices": behind }),
        );
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(bus: u8, id: &str, buses: Option<(u8, u8)>) -> FunctionState {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
        header[10..12].copy_from_slice(&[0x08, 0x01]);
        FunctionState {
            bus,
            devfn: 8,
            id: id.to_owned(),
            header,
            buses,
        }
    }

    #[test]
    fn device_behind_a_port_is_inside_the_port() {
        let functions = [
            function(0, "pcie.1", Some((1, 1))),
            function(1, "nvme", None),
        ];
        let answer = answer(&functions);
        let port = &answer[0]["devices"][0];
        assert_eq!(
            (&port["slot"], &port["qdev_id"]),
            (&json!(1), &json!("pcie.1"))
        );
        let nvme = &port["pci_bridge"]["devices"][0];
        assert_eq!(nvme["id"], json!({ "vendor": 0x1b36, "device": 0x10 }));
        assert_eq!(nvme["class_info"]["class"], 0x108);
    }
}
