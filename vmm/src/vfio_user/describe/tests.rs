use protocol::RegionFlags;

use super::*;

const INFO: DeviceInfo = DeviceInfo {
    reset: true,
    pci: true,
    num_regions: 9,
    num_irqs: 5,
};

fn region(index: u32, size: u64) -> RegionInfo {
    let flags = RegionFlags::READ | RegionFlags::WRITE;
    RegionInfo {
        index: RegionIndex(index),
        flags,
        size,
        offset: 0,
        areas: Vec::new(),
        fd: None,
    }
}

fn irqs(intx: u32, msi: u32, msix: u32) -> Irqs {
    let info = |index, count| IrqInfo {
        index,
        flags: IrqInfoFlags::EVENTFD,
        count,
    };
    Irqs {
        intx: info(IrqIndex::INTX, intx),
        msi: info(IrqIndex::MSI, msi),
        msix: info(IrqIndex::MSIX, msix),
        err: info(IrqIndex::ERR, 1),
        req: info(IrqIndex::REQ, 1),
    }
}

/// An NVMe controller: a 64-bit BAR of 16 KiB with the MSI-X table (65 vectors) in its upper half.
fn nvme() -> Vec<u8> {
    let mut copy = vec![0; 0x1000];
    copy[0..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
    copy[0x06] = 0x10;
    copy[0x10] = 0x04;
    copy[0x34] = 0x40;
    copy[0x3d] = 1;
    copy[0x40..0x4c].copy_from_slice(&[0x11, 0, 0x40, 0, 0x00, 0x20, 0, 0, 0x00, 0x30, 0, 0]);
    copy
}

fn refused(regions: Vec<RegionInfo>, irqs: Irqs, copy: Vec<u8>) -> DescribeError {
    check(INFO, regions, irqs, copy).unwrap_err()
}

#[test]
fn nvme_controller_is_understood() {
    let description = check(INFO, vec![region(0, 0x4000)], irqs(1, 0, 65), nvme()).unwrap();
    let kind = BarKind::Memory64 {
        prefetchable: false,
    };
    assert_eq!(
        description.bars,
        [BarRequest {
            index: 0,
            kind,
            size: 0x4000
        }]
    );
    assert_eq!(description.capabilities.msix.unwrap().vectors, 65);
}

#[test]
fn space_of_ones_and_bridges_are_refused() {
    assert_eq!(
        refused(vec![], irqs(0, 0, 0), vec![0xff; 0x100]),
        DescribeError::NoDevice
    );
    let mut bridge = nvme();
    bridge[0x0e] = 0x81;
    assert_eq!(
        refused(vec![], irqs(0, 0, 65), bridge),
        DescribeError::HeaderType(1)
    );
}

#[test]
fn pin_beyond_intd_is_refused() {
    let mut copy = nvme();
    copy[0x3d] = 5;
    assert_eq!(
        refused(vec![region(0, 0x4000)], irqs(1, 0, 65), copy),
        DescribeError::Pin(5)
    );
}

#[test]
fn bar_sizes_that_pci_does_not_have_are_refused() {
    for size in [0x3000, 2 << 40, u64::MAX] {
        let error = refused(vec![region(0, size)], irqs(1, 0, 65), nvme());
        assert!(
            matches!(error, DescribeError::Bars(BarError::Size { .. })),
            "{size:#x}: {error}"
        );
    }
}

#[test]
fn region_in_the_upper_half_of_a_64_bit_bar_is_refused() {
    let error = refused(
        vec![region(0, 0x4000), region(1, 0x1000)],
        irqs(1, 0, 65),
        nvme(),
    );
    assert_eq!(error, DescribeError::Bars(BarError::Taken { index: 1 }));
}

#[test]
fn bar_below_1_mib_is_refused() {
    let mut copy = nvme();
    copy[0x10] = 0x02;
    let error = refused(vec![region(0, 0x4000)], irqs(1, 0, 65), copy);
    assert_eq!(error, DescribeError::BarType { index: 0, flags: 2 });
}

#[test]
fn msix_table_outside_its_bar_or_in_no_bar_is_refused() {
    let mut outside = nvme();
    outside[0x45] = 0x3c;
    let error = refused(vec![region(0, 0x4000)], irqs(1, 0, 65), outside);
    assert!(
        error
            .to_string()
            .contains("MSI-X table lies at 0x3c00 of BAR 0, which ends before"),
        "{error}"
    );
    let mut nowhere = nvme();
    nowhere[0x44] = 0x07;
    let error = refused(vec![region(0, 0x4000)], irqs(1, 0, 65), nowhere);
    assert!(
        error
            .to_string()
            .contains("BAR 7, which the device does not have"),
        "{error}"
    );
}

#[test]
fn msix_pending_bits_in_the_table_are_refused() {
    let mut copy = nvme();
    copy[0x49] = 0x22;
    let error = refused(vec![region(0, 0x4000)], irqs(1, 0, 65), copy);
    assert!(
        error.to_string().contains("which the table holds already"),
        "{error}"
    );
}

#[test]
fn msix_capability_that_differs_from_the_offer_is_refused() {
    for offered in [0, 64, 66] {
        let error = refused(vec![region(0, 0x4000)], irqs(1, 0, offered), nvme());
        assert_eq!(
            error,
            DescribeError::Vectors {
                kind: IrqIndex::MSIX,
                capability: 65,
                offered
            }
        );
    }
}

#[test]
fn msi_is_cut_to_what_the_server_can_bind() {
    let mut copy = nvme();
    copy[0x40..0x4c].copy_from_slice(&[0x05, 0, 0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let description = check(INFO, vec![region(0, 0x4000)], irqs(1, 7, 0), copy.clone()).unwrap();
    assert_eq!(description.capabilities.msi.unwrap().vectors, 4);
    let error = refused(vec![region(0, 0x4000)], irqs(1, 0, 0), copy);
    assert_eq!(
        error,
        DescribeError::Vectors {
            kind: IrqIndex::MSI,
            capability: 32,
            offered: 0
        }
    );
}

#[test]
fn interrupts_without_eventfds_are_refused() {
    let mut irqs = irqs(1, 0, 65);
    irqs.intx.flags = IrqInfoFlags::MASKABLE;
    let error = refused(vec![region(0, 0x4000)], irqs, nvme());
    assert_eq!(error, DescribeError::NoEventfd(IrqIndex::INTX));
}

#[test]
fn device_without_any_interrupt_is_taken() {
    let mut copy = nvme();
    copy[0x06] = 0;
    let description = check(INFO, vec![region(0, 0x4000)], irqs(0, 0, 0), copy).unwrap();
    assert_eq!(description.capabilities, Capabilities::default());
}
