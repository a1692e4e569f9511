use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use super::{for_vcpu, physical_bits};

fn entry(function: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

fn supported() -> CpuId {
    CpuId::from_entries(&[
        entry(0, [0xd, 0, 0, 0]),
        entry(1, [0x600, 0x0708_0800, 1, 1 << 28]),
        entry(4, [0x1c00_4121, 0, 0, 0]),
        entry(4, [0x1c03_c163, 0, 0, 0]),
        entry(0xb, [1, 2, 0x100, 7]),
        entry(0x4000_0000, [0x4000_0001, 1, 2, 3]),
        entry(0x8000_0008, [0x2028, 0, 0x7003, 0]),
        entry(0x8000_001e, [7, 0x103, 5, 0]),
    ])
    .unwrap()
}

fn leaves(id: u8, count: u8, function: u32) -> Vec<kvm_cpuid_entry2> {
    for_vcpu(&supported(), id, count)
        .into_iter()
        .filter(|entry| entry.function == function)
        .collect()
}

#[test]
fn leaf_1_has_the_apic_id_and_the_hypervisor_bit() {
    let leaf = leaves(3, 4, 1)[0];
    assert_eq!((leaf.ebx, leaf.ecx), (0x0304_0800, 1 | 1 << 24 | 1 << 31));
    assert_eq!(leaves(0, 1, 1)[0].edx, 0, "a single CPU has no siblings");
}

#[test]
fn extended_topology_is_cores_of_one_thread() {
    let levels = leaves(2, 3, 0xb);
    let seen: Vec<_> = levels
        .iter()
        .map(|level| (level.eax, level.ebx, level.ecx, level.edx))
        .collect();
    assert_eq!(seen, [(0, 1, 0x100, 2), (2, 3, 0x201, 2), (0, 0, 2, 2)]);
    assert!(leaves(2, 3, 0x1f).is_empty(), "this CPU has no leaf 0x1f");
}

#[test]
fn caches_are_private_but_the_last_level_is_shared() {
    let caches = leaves(0, 4, 4);
    assert_eq!(caches[0].eax, 0x0c00_0121);
    assert_eq!(caches[1].eax, 0x0c00_c163);
}

#[test]
fn amd_leaves_count_cores() {
    assert_eq!(leaves(1, 4, 0x8000_0008)[0].ecx, 0x2003);
    let node = leaves(1, 4, 0x8000_001e)[0];
    assert_eq!((node.eax, node.ebx, node.ecx), (1, 1, 0));
}

#[test]
fn leaves_of_kvm_stay() {
    assert_eq!(leaves(0, 2, 0x4000_0000)[0].ebx, 1);
}

#[test]
fn physical_bits_are_the_guests_where_it_has_fewer() {
    assert_eq!(physical_bits(&supported()), 40);
    let nested = CpuId::from_entries(&[entry(0x8000_0008, [0x0028_3034, 0, 0, 0])]).unwrap();
    assert_eq!(physical_bits(&nested), 40);
    assert_eq!(
        physical_bits(&CpuId::from_entries(&[entry(0, [1, 0, 0, 0])]).unwrap()),
        36
    );
}
