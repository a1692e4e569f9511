use super::*;
use proptest::prelude::*;

const WINDOWS: PciWindows = PciWindows {
    ecam: AddressRange {
        start: 0xb000_0000,
        len: 256 << 20,
    },
    mmio32: AddressRange {
        start: 0xc000_0000,
        len: 0x3c00_0000,
    },
    mmio64: AddressRange {
        start: 1 << 39,
        len: 1 << 39,
    },
    pio: AddressRange {
        start: 0x1000,
        len: 0xf000,
    },
};
const NO_RESERVE: PortReserve = PortReserve {
    io: Some(0),
    memory: 0,
    prefetchable: 0,
};
const MEM32: BarKind = BarKind::Memory32 {
    prefetchable: false,
};
const MEM64: BarKind = BarKind::Memory64 {
    prefetchable: false,
};
const MEM64_PREFETCHABLE: BarKind = BarKind::Memory64 { prefetchable: true };

fn bar(index: u8, kind: BarKind, size: u64) -> BarRequest {
    BarRequest { index, kind, size }
}

fn function(devfn: u8, bars: &[BarRequest]) -> FunctionRequest {
    FunctionRequest {
        id: format!("dev{devfn}"),
        devfn,
        bars: bars.to_vec(),
    }
}

fn port(functions: Vec<FunctionRequest>) -> PortRequest {
    PortRequest {
        id: "pcie.1".into(),
        reserve: NO_RESERVE,
        functions,
    }
}

fn inside(range: AddressRange, start: u64, len: u64) -> bool {
    start >= range.start
        && start - range.start <= range.len
        && len <= range.len - (start - range.start)
}

#[test]
fn nvme_on_the_root_bus_goes_above_4_gib() {
    let plan = allocate(&WINDOWS, &[function(8, &[bar(0, MEM64, 0x4000)])], &[]).unwrap();
    assert_eq!(plan.bars[0].address, WINDOWS.mmio64.start);
}

#[test]
fn e1000e_gets_32_bit_memory_and_ports() {
    let bars = [
        bar(0, MEM32, 0x2_0000),
        bar(2, BarKind::Io, 32),
        bar(6, BarKind::Rom, 0x4_0000),
    ];
    let plan = allocate(&WINDOWS, &[function(16, &bars)], &[]).unwrap();
    let address = |index| {
        plan.bars
            .iter()
            .find(|plan| plan.bar.index == index)
            .unwrap()
            .address
    };
    assert_eq!(address(6), 0xc000_0000, "the biggest comes first");
    assert_eq!(address(0), 0xc004_0000);
    assert_eq!(address(2), 0x1000);
}

#[test]
fn bars_behind_a_port_split_over_its_two_memory_windows() {
    let bars = [
        bar(0, MEM64, 0x4000),
        bar(2, MEM64_PREFETCHABLE, 8 << 30),
        bar(4, BarKind::Io, 8),
    ];
    let plan = allocate(&WINDOWS, &[], &[port(vec![function(0, &bars)])]).unwrap();
    let bridge = plan.bridges[0];
    assert_eq!(bridge.bus, 1);
    assert_eq!(
        bridge.memory,
        Some(AddressRange {
            start: 0xc000_0000,
            len: 1 << 20
        })
    );
    assert_eq!(
        bridge.prefetchable,
        Some(AddressRange {
            start: 1 << 39,
            len: 8 << 30
        })
    );
    assert_eq!(
        bridge.io,
        Some(AddressRange {
            start: 0x1000,
            len: 0x1000
        })
    );
}

#[test]
fn empty_port_gets_its_reserve() {
    let empty = PortRequest {
        id: "pcie.1".into(),
        reserve: PortReserve::default(),
        functions: vec![],
    };
    let plan = allocate(&WINDOWS, &[], &[empty]).unwrap();
    assert_eq!(plan.bridges[0].memory.unwrap().len, 2 << 20);
    assert_eq!(plan.bridges[0].prefetchable.unwrap().len, 2 << 20);
    assert_eq!(plan.bridges[0].io.map(|io| io.len), Some(4096));
}

#[test]
fn window_of_an_empty_port_is_aligned_for_a_bar_as_large_as_the_reserve() {
    let empty = |memory, prefetchable| PortRequest {
        id: "pcie.1".into(),
        reserve: PortReserve {
            io: None,
            memory,
            prefetchable,
        },
        functions: vec![],
    };
    let ports = [empty(3 << 20, 16 << 30), empty(2 << 20, 2 << 20)];
    let disk = function(8, &[bar(0, MEM64_PREFETCHABLE, 256 << 20)]);
    let plan = allocate(&WINDOWS, &[disk], &ports).unwrap();
    for (bridge, size32, size64) in [
        (plan.bridges[0], 2 << 20, 16 << 30),
        (plan.bridges[1], 2 << 20, 2 << 20),
    ] {
        let device = function(
            0,
            &[bar(0, MEM32, size32), bar(2, MEM64_PREFETCHABLE, size64)],
        );
        assert_eq!(fit(&device, Space::Memory32, bridge.memory), Ok(()));
        assert_eq!(fit(&device, Space::Memory64, bridge.prefetchable), Ok(()));
    }
}

#[test]
fn decoders_that_fit_a_window_only_by_the_sum_of_their_sizes_are_told_a_reserve_that_holds_them() {
    let window = AddressRange {
        start: 0xc030_0000,
        len: 2 << 20,
    };
    let device = function(0, &[bar(0, MEM32, 2 << 20)]);
    let needed = fit(&device, Space::Memory32, Some(window)).unwrap_err();
    assert_eq!(needed, 2 << 20);
    let reserved = PortRequest {
        reserve: PortReserve {
            memory: needed,
            ..NO_RESERVE
        },
        ..port(vec![])
    };
    let plan = allocate(&WINDOWS, &[], &[reserved]).unwrap();
    assert_eq!(
        fit(&device, Space::Memory32, plan.bridges[0].memory),
        Ok(())
    );
}

#[test]
fn bar_larger_than_its_window_names_device_size_and_window() {
    let refused = allocate(&WINDOWS, &[function(8, &[bar(0, MEM32, 1 << 31)])], &[]).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("BAR 0 of device dev8 (0x80000000 bytes, 32-bit memory)"),
        "{text}"
    );
}

#[test]
fn more_ports_than_buses_are_refused() {
    let ports: Vec<PortRequest> = (0..256).map(|_| port(vec![])).collect();
    assert_eq!(
        allocate(&WINDOWS, &[], &ports),
        Err(AllocateError::TooManyPorts(256))
    );
}

fn kind(choice: u8) -> BarKind {
    match choice % 5 {
        0 => MEM32,
        1 => BarKind::Memory32 { prefetchable: true },
        2 => MEM64,
        3 => MEM64_PREFETCHABLE,
        _ => BarKind::Io,
    }
}

fn size(kind: BarKind, power: u32) -> u64 {
    match kind {
        BarKind::Io => 1 << (2 + power % 6),
        BarKind::Memory32 { .. } | BarKind::Rom => 1 << (4 + power % 21),
        BarKind::Memory64 { .. } => 1 << (4 + power % 30),
    }
}

proptest! {
    #[test]
    fn placed_bars_are_aligned_inside_their_windows_and_never_overlap(
        root in prop::collection::vec((any::<u8>(), 0u32..60), 0..12),
        behind in prop::collection::vec(prop::collection::vec((any::<u8>(), 0u32..60), 0..5), 0..6),
    ) {
        let make = |(devfn, (choice, power)): (usize, &(u8, u32))| {
            let kind = kind(*choice);
            function(u8::try_from(devfn * 8).unwrap(), &[bar(0, kind, size(kind, *power))])
        };
        let functions: Vec<_> = root.iter().enumerate().map(make).collect();
        let ports: Vec<_> = behind.iter().map(|list| port(list.iter().enumerate().map(make).collect())).collect();
        let wanted = root.len() + behind.iter().map(Vec::len).sum::<usize>();
        let plan = match allocate(&WINDOWS, &functions, &ports) {
            Ok(plan) => plan,
            Err(AllocateError::NoRoom { .. }) => return Ok(()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        prop_assert_eq!(plan.bars.len(), wanted);
        let mut taken: Vec<(bool, u64, u64)> = Vec::new();
        for placed in &plan.bars {
            let io = placed.bar.kind == BarKind::Io;
            let len = footprint(&placed.bar);
            prop_assert_eq!(placed.address % placed.bar.size, 0);
            let window = if io { WINDOWS.pio } else if placed.address >> 32 == 0 { WINDOWS.mmio32 } else { WINDOWS.mmio64 };
            prop_assert!(inside(window, placed.address, len));
            if let Some(bridge) = placed.bus.checked_sub(1).map(|index| plan.bridges[usize::from(index)]) {
                let windows = [bridge.io, bridge.memory, bridge.prefetchable];
                prop_assert!(windows.iter().flatten().any(|window| inside(*window, placed.address, len)));
            }
            for (other_io, start, end) in &taken {
                prop_assert!(*other_io != io || placed.address + len <= *start || *end <= placed.address);
            }
            taken.push((io, placed.address, placed.address + len));
        }
    }
}

#[test]
fn empty_ports_get_io_windows_while_there_is_room_and_none_when_there_is_not() {
    let port = |index: usize| PortRequest {
        id: format!("pcie.{index}"),
        reserve: PortReserve::default(),
        functions: Vec::new(),
    };
    let few: Vec<PortRequest> = (0..2).map(port).collect();
    let plan = allocate(&WINDOWS, &[], &few).unwrap();
    assert!(
        plan.bridges
            .iter()
            .all(|bridge| bridge.io.is_some_and(|io| io.len == 4096))
    );
    let many: Vec<PortRequest> = (0..31).map(port).collect();
    let plan = allocate(&WINDOWS, &[], &many).unwrap();
    assert!(
        plan.bridges
            .iter()
            .all(|bridge| bridge.io.is_none() && bridge.memory.is_some())
    );
}

#[test]
fn io_reserve_that_is_asked_for_is_kept_where_the_others_are_given_up() {
    let port = |index: usize| PortRequest {
        id: format!("pcie.{index}"),
        reserve: PortReserve {
            io: (index == 3).then_some(0x1000),
            ..PortReserve::default()
        },
        functions: Vec::new(),
    };
    let ports: Vec<PortRequest> = (0..31).map(port).collect();
    let plan = allocate(&WINDOWS, &[], &ports).unwrap();
    let with_io: Vec<u8> = plan
        .bridges
        .iter()
        .filter(|bridge| bridge.io.is_some())
        .map(|bridge| bridge.bus)
        .collect();
    assert_eq!(with_io, [4]);
}
