//! Which CPU the guest sees: the host's, as far as KVM can give it, as one socket of single-threaded cores.
//!
//! Leaves that speak of the host's topology are written anew (Intel SDM 2A "CPUID", AMD APM 3 appendix E); all
//! others, KVM's own included, stay as KVM reports them.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

#[cfg(test)]
mod tests;

/// Leaf 1, ECX: local APIC timer with a TSC deadline; KVM's own APIC has it.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: this is a virtual machine.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 0x80000001, ECX: the logical processors are cores, not threads.
const CMP_LEGACY: u32 = 1 << 1;
const EXTENDED_TOPOLOGY: [u32; 2] = [0xb, 0x1f];
/// Level types of the extended topology leaves, already shifted.
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
/// Address bits of a CPU that does not say (AMD APM 3, function 8000_0008h).
const DEFAULT_PHYSICAL_BITS: u8 = 36;

/// Address bits that the guest may use.
pub fn physical_bits(supported: &CpuId) -> u8 {
    let leaf = supported
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0x8000_0008);
    leaf.map_or(DEFAULT_PHYSICAL_BITS, |leaf| {
        let [host, _linear, guest, _] = leaf.eax.to_le_bytes();
        // Non-zero where nested paging reaches fewer bits than the CPU has.
        if guest == 0 { host } else { host.min(guest) }
    })
}

/// The CPUID of vCPU `id` of `count`.
pub fn for_vcpu(supported: &CpuId, id: u8, count: u8) -> Vec<kvm_cpuid_entry2> {
    let topology = Topology { id, count };
    let mut entries: Vec<_> = supported.as_slice().to_vec();
    entries.retain(|entry| !EXTENDED_TOPOLOGY.contains(&entry.function));
    let highest = entries
        .iter()
        .find(|entry| entry.function == 0)
        .map_or(0, |entry| entry.eax);
    for entry in &mut entries {
        topology.write(entry);
    }
    for leaf in EXTENDED_TOPOLOGY
        .into_iter()
        .filter(|leaf| *leaf <= highest)
    {
        entries.extend(topology.extended(leaf));
    }
    entries
}

struct Topology {
    id: u8,
    count: u8,
}

impl Topology {
    fn write(&self, entry: &mut kvm_cpuid_entry2) {
        let (id, count) = (u32::from(self.id), u32::from(self.count));
        match entry.function {
            0x1 => {
                entry.ebx = (entry.ebx & 0xffff) | (count << 16) | (id << 24);
                entry.ecx |= TSC_DEADLINE | HYPERVISOR;
                entry.edx = if count > 1 {
                    entry.edx | HTT
                } else {
                    entry.edx & !HTT
                };
            }
            // Caches: private to a core, but the third level (bits 5 to 7) is shared by all.
            0x4 | 0x8000_001d => {
                let sharing = if (entry.eax >> 5) & 7 >= 3 { count } else { 1 };
                entry.eax = (entry.eax & 0x0000_3fff) | ((sharing.next_power_of_two() - 1) << 14);
                if entry.function == 0x4 {
                    entry.eax |= (count.next_power_of_two() - 1) << 26;
                }
            }
            0x8000_0001 => {
                entry.ecx = if count > 1 {
                    entry.ecx | CMP_LEGACY
                } else {
                    entry.ecx & !CMP_LEGACY
                }
            }
            0x8000_0008 => {
                entry.ecx = (entry.ecx & !0xf0ff) | (self.core_bits() << 12) | (count - 1)
            }
            // APIC id; one thread in core `id`; one node.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }

    fn extended(&self, function: u32) -> [kvm_cpuid_entry2; 3] {
        let level = |index, eax, ebx, kind: u32| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx: index | kind,
            edx: u32::from(self.id),
            ..Default::default()
        };
        [
            level(0, 0, 1, LEVEL_SMT),
            level(1, self.core_bits(), u32::from(self.count), LEVEL_CORE),
            level(2, 0, 0, 0),
        ]
    }

    /// Bits of the APIC id that number the core.
    fn core_bits(&self) -> u32 {
        u32::from(self.count).next_power_of_two().trailing_zeros()
    }
}
