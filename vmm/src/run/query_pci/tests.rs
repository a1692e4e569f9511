use super::*;
use crate::qmp::shapes;

fn function(bus: u8, id: &str, buses: Option<(u8, u8)>) -> FunctionState {
    let mut header = [0; 64];
    header[..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
    header[10..12].copy_from_slice(&[0x08, 0x01]);
    FunctionState {
        bus,
        devfn: 8,
        id: id.to_owned(),
        header,
        bars: Vec::new(),
        buses,
    }
}

fn with(mut function: FunctionState, values: &[(usize, &[u8])]) -> FunctionState {
    for (at, bytes) in values {
        function.header[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    function
}

fn bar(index: u8, kind: BarKind, size: u64) -> BarRequest {
    BarRequest { index, kind, size }
}

#[test]
fn device_behind_a_port_is_inside_the_port() {
    let functions = [
        function(0, "pcie.1", Some((1, 1))),
        function(1, "nvme", None),
    ];
    let answer = answer(&functions);
    shapes::PCI.check(&answer).unwrap();
    let port = &answer[0]["devices"][0];
    assert_eq!(
        (&port["slot"], &port["qdev_id"]),
        (&json!(1), &json!("pcie.1"))
    );
    let nvme = &port["pci_bridge"]["devices"][0];
    let id = json!({ "vendor": 0x1b36, "device": 0x10, "subsystem-vendor": 0, "subsystem": 0 });
    assert_eq!(nvme["id"], id);
    assert_eq!(nvme["class_info"]["class"], 0x108);
}

#[test]
fn bars_have_the_addresses_that_the_guest_gave_while_they_decode() {
    let mut nvme = function(0, "nvme", None);
    nvme.bars = vec![
        bar(0, BarKind::Memory64 { prefetchable: true }, 0x4000),
        bar(2, BarKind::Io, 0x20),
        bar(
            3,
            BarKind::Memory32 {
                prefetchable: false,
            },
            0x1000,
        ),
        bar(ROM, BarKind::Rom, 0x1_0000),
    ];
    let registers: &[(usize, &[u8])] = &[
        (0x10, &[0x0c, 0x40, 0, 0xe0, 0x02]),
        (0x18, &[0x21, 0xc0]),
        (0x1c, &[0, 0x10, 0, 0xc0]),
        (0x30, &[0, 0, 1, 0xc0]),
    ];
    let nvme = with(nvme, registers);
    let addresses = |command: u8| -> Vec<Value> {
        let answer = answer(&[with(nvme.clone(), &[(COMMAND, &[command])])]);
        shapes::PCI.check(&answer).unwrap();
        let regions = answer[0]["devices"][0]["regions"].as_array().unwrap();
        regions.iter().map(|one| one["address"].clone()).collect()
    };
    let wide = 0x2_e000_4000_u64;
    let small = 0xc000_1000_u64;
    assert_eq!(addresses(0), [json!(-1), json!(-1), json!(-1), json!(-1)]);
    assert_eq!(
        addresses(3),
        [json!(wide), json!(0xc020), json!(small), json!(-1)]
    );
    let with_rom = with(nvme, &[(COMMAND, &[2]), (0x30, &[1])]);
    let answer = answer(&[with_rom]);
    let rom = &answer[0]["devices"][0]["regions"][3];
    assert_eq!(
        rom,
        &json!({ "bar": 6, "type": "memory", "address": 0xc001_0000_u64, "size": 0x1_0000, "prefetch": false, "mem_type_64": false })
    );
}

#[test]
fn port_has_the_windows_of_its_registers() {
    let registers: &[(usize, &[u8])] = &[
        (0x1c, &[0x10, 0x21]),
        (0x20, &[0x00, 0xc0, 0x10, 0xc0]),
        (0x24, &[0x01, 0xe0, 0x11, 0xe0]),
        (0x28, &[1, 0, 0, 0, 1, 0, 0, 0]),
    ];
    let port = with(function(0, "pcie.1", Some((1, 1))), registers);
    let answer = answer(&[port]);
    shapes::PCI.check(&answer).unwrap();
    let bus = &answer[0]["devices"][0]["pci_bridge"]["bus"];
    assert_eq!(bus["io_range"], json!({ "base": 0x1000, "limit": 0x2fff }));
    assert_eq!(
        bus["memory_range"],
        json!({ "base": 0xc000_0000_u64, "limit": 0xc01f_ffff_u64 })
    );
    assert_eq!(
        bus["prefetchable_range"],
        json!({ "base": 0x1_e000_0000_u64, "limit": 0x1_e01f_ffff_u64 })
    );
}
