use super::*;
use crate::pci::AddressRange;

fn read32(port: &RootPort, offset: u16) -> u32 {
    let mut data = [0; 4];
    port.config_read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn range(start: u64, len: u64) -> Option<AddressRange> {
    Some(AddressRange { start, len })
}

#[test]
fn power_on_has_no_buses_and_is_a_bridge() {
    let port = RootPort::new("pcie.1", 1);
    assert_eq!(port.buses(), (0, 0));
    assert_eq!(read32(&port, 0x0c) >> 16, 1);
    assert_eq!(read32(&port, 0x08) >> 16, 0x0604);
}

#[test]
fn program_writes_bus_numbers_and_open_windows() {
    let port = RootPort::new("pcie.1", 1);
    port.program(&BridgePlan {
        bus: 3,
        io: range(0x2000, 0x1000),
        memory: range(0xc010_0000, 0x20_0000),
        prefetchable: range(0x20_0000_0000, 0x1_0010_0000),
    });
    assert_eq!(port.buses(), (3, 3));
    assert_eq!(read32(&port, 0x1c) & 0xffff, 0x2020);
    assert_eq!(read32(&port, 0x20), 0xc020_c010);
    assert_eq!(read32(&port, 0x24), 0x0001_0001);
    assert_eq!((read32(&port, 0x28), read32(&port, 0x2c)), (0x20, 0x21));
    assert_eq!(read32(&port, 0x04) & 0x7, 7);
}

#[test]
fn closed_windows_have_their_base_above_their_limit() {
    let port = RootPort::new("pcie.1", 1);
    port.program(&BridgePlan {
        bus: 1,
        io: None,
        memory: None,
        prefetchable: None,
    });
    let (io, memory, wide) = (
        read32(&port, 0x1c),
        read32(&port, 0x20),
        read32(&port, 0x24),
    );
    assert!(io & 0xff > io >> 8 & 0xff);
    assert!(memory & 0xffff > memory >> 16);
    assert!(wide & 0xfff0 > wide >> 16 & 0xfff0);
}

#[test]
fn device_at_power_on_shows_in_slot_and_link_status_and_survives_reset() {
    let port = RootPort::new("pcie.1", 5);
    let express = 0x40;
    assert_eq!(read32(&port, express + 0x18) >> 16 & 0x40, 0);
    port.occupy_at_power_on();
    port.reset();
    assert_eq!(read32(&port, express + 0x18) >> 16 & 0x40, 0x40);
    assert_eq!(read32(&port, express + 0x10) >> 16 & 0x2000, 0x2000);
    assert_eq!(read32(&port, express + 0x14) >> 19, 5);
}

#[test]
fn write_of_slot_control_completes_the_command_and_slot_status_is_cleared_by_ones() {
    let port = RootPort::new("pcie.1", 1);
    let (control, status) = (0x58, 0x5a);
    port.config_write(control, &0x0020u16.to_le_bytes());
    assert_eq!(read32(&port, control), 0x0010_0020);
    port.config_write(status, &0x0010u16.to_le_bytes());
    assert_eq!(read32(&port, control), 0x0000_0020);
}

#[test]
fn eject_of_a_driven_slot_asks_for_an_interrupt_by_the_message_the_guest_programmed() {
    let port = RootPort::new("pcie.1", 1);
    port.occupy_at_power_on();
    // Hot-plug interrupt, attention button; power indicator on.
    port.config_write(0x58, &0x0121u16.to_le_bytes());
    let msi = 0x40 + 0x3c;
    port.config_write(msi + 4, &0xfee0_1000u32.to_le_bytes());
    port.config_write(msi + 12, &0x4031u16.to_le_bytes());
    port.config_write(msi + 2, &1u16.to_le_bytes());
    port.slot_event(Event::EjectRequested);
    assert_eq!(port.take_actions(), [Action::StartTimer, Action::Interrupt]);
    let message = PortInterrupt::Message {
        address: 0xfee0_1000,
        data: 0x4031,
    };
    assert_eq!(port.interrupt(), message);
    assert_eq!(port.take_actions(), []);
}

#[test]
fn bus_reset_is_reported_once_per_rising_edge() {
    let port = RootPort::new("pcie.1", 1);
    port.config_write(0x3e, &[0x40, 0]);
    assert!(port.take_bus_reset());
    port.config_write(0x3e, &[0x40, 0]);
    assert!(!port.take_bus_reset());
    port.config_write(0x3e, &[0, 0]);
    port.config_write(0x3e, &[0x40, 0]);
    assert!(port.take_bus_reset());
}

#[test]
fn guest_cannot_write_identity_or_status() {
    let port = RootPort::new("pcie.1", 1);
    let before = read32(&port, 0);
    port.config_write(0, &[0xff; 4]);
    port.config_write(0x54, &[0xff; 4]);
    assert_eq!(read32(&port, 0), before);
    assert_eq!(read32(&port, 0x54), 1 << 19 | 0x7b);
}
