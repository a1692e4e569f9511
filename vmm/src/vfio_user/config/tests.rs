use super::*;
use crate::address_space::AddressRange;
use crate::kvm::MsiMessage;
use crate::pci::BarKind;
use crate::vfio_user::capabilities;

/// A device with a 64-bit BAR 0, an I/O BAR 2, power management at 0x40, MSI at 0x50, MSI-X at 0x70, PCI Express with FLR
/// at 0x80, and a hidden extended capability.
fn config() -> DeviceConfig {
    let mut copy = vec![0; 0x1000];
    copy[0..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
    copy[0x04..0x08].copy_from_slice(&[0x07, 0x05, 0x10, 0x00]);
    copy[0x10..0x14].copy_from_slice(&[0x04, 0x00, 0xab, 0xfe]);
    copy[0x34] = 0x40;
    copy[0x3c..0x3e].copy_from_slice(&[11, 1]);
    copy[0x40..0x42].copy_from_slice(&[0x01, 0x50]);
    copy[0x50..0x54].copy_from_slice(&[0x05, 0x70, 0x84, 0x00]);
    copy[0x70..0x7c].copy_from_slice(&[0x11, 0x80, 0x04, 0x80, 0x00, 0x20, 0, 0, 0x00, 0x30, 0, 0]);
    copy[0x80..0x88].copy_from_slice(&[0x10, 0x00, 0x02, 0, 0, 0, 0, 0x10]);
    copy[0x100..0x104].copy_from_slice(&0x1501_0001u32.to_le_bytes());
    copy[0x150..0x154].copy_from_slice(&0x2001_0010u32.to_le_bytes());
    copy[0x200..0x204].copy_from_slice(&0x0001_0003u32.to_le_bytes());
    let bars = [
        BarRequest {
            index: 0,
            kind: BarKind::Memory64 {
                prefetchable: false,
            },
            size: 0x4000,
        },
        BarRequest {
            index: 2,
            kind: BarKind::Io,
            size: 32,
        },
    ];
    DeviceConfig::new(&copy, &bars, &capabilities::find(&copy).unwrap(), true).unwrap()
}

/// What the guest sees where the device would answer 0xee.
fn read32(config: &DeviceConfig, offset: u16) -> u32 {
    let mut data = [0xee; 4];
    config.overlay(offset, &mut data);
    u32::from_le_bytes(data)
}

fn on(config: &mut DeviceConfig, command: u16) -> Written {
    config.write(0x04, &command.to_le_bytes())
}

#[test]
fn start_is_the_state_after_power_on_whatever_the_copy_held() {
    let config = config();
    assert_eq!(read32(&config, 0x00), 0x0010_1b36);
    assert_eq!(
        read32(&config, 0x04),
        0xeeee_0000,
        "command is off, status is the device's"
    );
    assert_eq!((read32(&config, 0x10), read32(&config, 0x18)), (4, 1));
    assert_eq!(read32(&config, 0x70) >> 16, 0x0004);
    assert_eq!(config.interrupt_mode(), InterruptMode::Off);
    assert_eq!(config.decoded(), []);
}

#[test]
fn identity_list_and_bars_are_never_the_devices_to_answer() {
    let config = config();
    for offset in [
        0x00, 0x08, 0x10, 0x18, 0x2c, 0x30, 0x34, 0x3c, 0x50, 0x54, 0x70, 0x78,
    ] {
        assert!(!config.needs_device(offset, 4), "{offset:#x}");
    }
    for offset in [0x04, 0x0c, 0x44, 0x84, 0x100, 0x204] {
        assert!(config.needs_device(offset, 4), "{offset:#x}");
    }
    assert!(!config.needs_device(0x80, 2));
    assert_eq!(read32(&config, 0x80), 0xeeee_0010);
}

#[test]
fn command_is_kept_and_forwarded_without_reserved_bits() {
    let mut config = config();
    let written = on(&mut config, 0xffff);
    assert_eq!(written.forward, [(0x04, vec![0x5f, 0x05])]);
    assert_eq!(read32(&config, 0x04), 0xeeee_055f);
}

#[test]
fn write_over_command_and_status_goes_whole_to_the_device() {
    let mut config = config();
    let written = config.write(0x04, &[0x06, 0x00, 0x00, 0xf9]);
    assert_eq!(written.forward, [(0x04, vec![0x06, 0x00, 0x00, 0xf9])]);
}

#[test]
fn sizing_a_bar_is_answered_without_the_device() {
    let mut config = config();
    let written = config.write(0x10, &[0xff; 4]);
    assert_eq!(written, Written::default());
    assert_eq!(read32(&config, 0x10), 0xffff_c004);
    assert_eq!(config.write(0x30, &[0xff; 4]).forward, [], "no ROM");
    assert_eq!(read32(&config, 0x30), 0);
}

#[test]
fn bar_decodes_where_the_guest_puts_it_while_the_command_says_so() {
    let mut config = config();
    config.write(0x10, &0xc000_0000u32.to_le_bytes());
    config.write(0x12, &[0x10, 0xc0]);
    assert!(on(&mut config, 0x0002).decode);
    let range = AddressRange {
        start: 0xc010_0000,
        len: 0x4000,
    };
    assert_eq!(
        config.decoded(),
        [Decoded {
            index: 0,
            io: false,
            range
        }]
    );
    assert!(
        config.write(0x14, &[1, 0, 0, 0]).decode,
        "moves while it decodes"
    );
    assert!(
        !on(&mut config, 0x0006).decode,
        "bus mastering moves nothing"
    );
    assert!(on(&mut config, 0x0004).decode);
    assert_eq!(config.decoded(), []);
}

#[test]
fn power_down_stops_decoding_and_power_up_brings_it_back() {
    let mut config = config();
    on(&mut config, 0x0002);
    let written = config.write(0x44, &[0x03, 0x00]);
    assert!(written.decode);
    assert_eq!(written.forward, [(0x44, vec![0x03, 0x00])]);
    assert_eq!(config.decoded(), []);
    assert!(config.write(0x44, &[0x00, 0x00]).decode);
    assert_eq!(config.decoded().len(), 1);
}

#[test]
fn pin_is_used_only_by_a_started_driver_that_has_not_disabled_it() {
    let mut config = config();
    assert!(on(&mut config, 0x0006).interrupts);
    assert_eq!(config.interrupt_mode(), InterruptMode::Intx);
    assert!(on(&mut config, 0x0406).interrupts);
    assert_eq!(config.interrupt_mode(), InterruptMode::Off);
}

#[test]
fn msi_is_kept_from_the_device() {
    let mut config = config();
    on(&mut config, 0x0006);
    assert_eq!(
        config.write(0x54, &0xfee0_0000u32.to_le_bytes()).forward,
        []
    );
    config.write(0x5c, &[0x41, 0x00]);
    let written = config.write(0x52, &[0x01, 0x00]);
    assert!(written.interrupts && written.forward.is_empty());
    let messages = vec![MsiMessage {
        address: 0xfee0_0000,
        data: 0x41,
    }];
    assert_eq!(
        config.interrupt_mode(),
        InterruptMode::Msi(MsiState {
            messages,
            masked: 0
        })
    );
    assert!(
        config.write(0x5c, &[0x42, 0x00]).interrupts,
        "a new message must be routed"
    );
}

#[test]
fn msix_control_is_kept_from_the_device_and_wins_over_msi() {
    let mut config = config();
    config.write(0x52, &[0x01, 0x00]);
    let written = config.write(0x72, &[0x00, 0xc0]);
    assert!(written.interrupts && written.forward.is_empty());
    assert_eq!(
        config.interrupt_mode(),
        InterruptMode::Msix { mask_all: true }
    );
    assert!(config.write(0x72, &[0x00, 0x80]).interrupts);
    assert_eq!(
        config.interrupt_mode(),
        InterruptMode::Msix { mask_all: false }
    );
    assert_eq!(read32(&config, 0x70) >> 16, 0x8004);
}

#[test]
fn function_reset_is_seen_and_forwarded() {
    let mut config = config();
    assert!(!config.write(0x88, &[0x10, 0x28]).function_reset);
    let written = config.write(0x88, &[0x10, 0xa8]);
    assert!(written.function_reset);
    assert_eq!(written.forward, [(0x88, vec![0x10, 0xa8])]);
}

#[test]
fn hidden_extended_capability_is_a_link_without_an_id() {
    let config = config();
    assert_eq!(read32(&config, 0x150), 0x2000_0000);
    assert_eq!(read32(&config, 0x100), 0xeeee_eeee);
}

#[test]
fn reset_forgets_everything_the_guest_wrote() {
    let mut config = config();
    config.write(0x10, &0xc000_0000u32.to_le_bytes());
    config.write(0x3c, &[19]);
    config.write(0x72, &[0x00, 0xc0]);
    config.write(0x52, &[0x01, 0x00]);
    config.write(0x44, &[0x03, 0x00]);
    on(&mut config, 0x0407);
    config.reset();
    let fresh = self::config();
    assert_eq!(config.space.u32_at(0x10), fresh.space.u32_at(0x10));
    assert_eq!(config.interrupt_mode(), InterruptMode::Off);
    assert_eq!(
        (read32(&config, 0x04), read32(&config, 0x3c) & 0xff),
        (0xeeee_0000, 0)
    );
    on(&mut config, 0x0002);
    assert_eq!(config.decoded().len(), 1, "powered up again");
}

#[test]
fn device_with_256_bytes_has_ones_behind_them() {
    let copy = vec![0; 0x100];
    let mut config = DeviceConfig::new(&copy, &[], &Capabilities::default(), false).unwrap();
    assert!(!config.needs_device(0x100, 4));
    assert_eq!(read32(&config, 0x100), u32::MAX);
    assert_eq!(config.write(0x100, &[1, 2, 3, 4]), Written::default());
    assert!(config.needs_device(0xfc, 4));
}

proptest::proptest! {
    #[test]
    fn writes_of_any_kind_keep_the_vmms_bytes_from_the_device(
        offset in 0u16..0x1000, width in 0u32..3, value: u32,
    ) {
        let mut config = config();
        let width = 1usize << width;
        let offset = offset - offset % u16::try_from(width).unwrap();
        let written = config.write(offset, &value.to_le_bytes()[..width]);
        for (at, bytes) in written.forward {
            for byte in at..at + u16::try_from(bytes.len()).unwrap() {
                proptest::prop_assert_ne!(config.source[usize::from(byte)], Source::Vmm);
            }
        }
    }
}
