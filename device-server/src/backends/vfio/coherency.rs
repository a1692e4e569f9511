//! Whether a device's DMA may bypass the CPU's caches, and whether a guest can live with that.
//!
//! A device may ask for DMA that does not look into the caches. Where the IOMMU has every access snoop, that does not matter.
//! Where it does not, a driver that relies on it maps the memory as uncached, and KVM lets the guest's mapping decide on AMD
//! (nested paging honours the guest's PAT). On Intel it does so only for a VM that KVM_DEV_VFIO told of such a device, which
//! Bulkhead never does. What the kernel says of kvm-amd without nested paging does not matter: all of AMD's IOMMUs snoop.

use protocol::PciAddress;

use super::error::OpenError;

/// Whether DMA of a device is coherent with the CPU's caches, whatever the device asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coherency {
    /// The IOMMU sees to it.
    Enforced,
    /// It does not, and how that is known.
    NotEnforced(&'static str),
}

/// What follows for a device.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Served,
    ServedAsTheCpuHelps,
    ServedAsTheOperatorAllows,
    Refused,
}

/// Why a device may be served, for the log.
#[derive(Debug)]
pub(super) struct Accepted {
    address: PciAddress,
    reason: &'static str,
    verdict: Verdict,
}

/// Refuses a device whose DMA a guest could not live with, unless that is `allowed`.
pub(super) fn check(
    address: PciAddress,
    coherency: Coherency,
    allowed: bool,
) -> Result<Accepted, OpenError> {
    let reason = match coherency {
        Coherency::Enforced => "",
        Coherency::NotEnforced(reason) => reason,
    };
    let verdict = judge(coherency, honours_guest_pat(&cpu_vendor()), allowed);
    if verdict == Verdict::Refused {
        return Err(OpenError::NotCoherent {
            address,
            iommu: reason,
        });
    }
    Ok(Accepted {
        address,
        reason,
        verdict,
    })
}

impl Accepted {
    /// Says why, once the device is open: a start that fails says one line only.
    pub(super) fn log(&self) {
        let Accepted {
            address, reason, ..
        } = self;
        match self.verdict {
            Verdict::Served | Verdict::Refused => {}
            Verdict::ServedAsTheCpuHelps => {
                tracing::info!(pci = %address, reason, "DMA may bypass the CPU's caches; so can the guest on this CPU");
            }
            Verdict::ServedAsTheOperatorAllows => {
                tracing::warn!(
                    pci = %address, reason,
                    "DMA may bypass the CPU's caches and the guest cannot: allowed by --allow-noncoherent"
                );
            }
        }
    }
}

fn judge(coherency: Coherency, cpu_honours_guest_pat: bool, allowed: bool) -> Verdict {
    match coherency {
        Coherency::Enforced => Verdict::Served,
        Coherency::NotEnforced(_) if cpu_honours_guest_pat => Verdict::ServedAsTheCpuHelps,
        Coherency::NotEnforced(_) if allowed => Verdict::ServedAsTheOperatorAllows,
        Coherency::NotEnforced(_) => Verdict::Refused,
    }
}

/// CPUs with AMD's virtualization.
fn honours_guest_pat(vendor: &[u8; 12]) -> bool {
    matches!(vendor, b"AuthenticAMD" | b"HygonGenuine")
}

/// CPUID leaf 0: the vendor in EBX, EDX, ECX.
fn cpu_vendor() -> [u8; 12] {
    let leaf = core::arch::x86_64::__cpuid(0);
    let [a, b, c] = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    let mut vendor = [0; 12];
    for (to, from) in vendor.iter_mut().zip([a, b, c].concat()) {
        *to = from;
    }
    vendor
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT: Coherency = Coherency::NotEnforced("test");

    #[test]
    fn only_dma_that_neither_iommu_nor_cpu_makes_coherent_is_refused_unless_allowed() {
        for (coherency, pat, allowed, verdict) in [
            (Coherency::Enforced, false, false, Verdict::Served),
            (Coherency::Enforced, true, true, Verdict::Served),
            (NOT, true, false, Verdict::ServedAsTheCpuHelps),
            (NOT, true, true, Verdict::ServedAsTheCpuHelps),
            (NOT, false, true, Verdict::ServedAsTheOperatorAllows),
            (NOT, false, false, Verdict::Refused),
        ] {
            assert_eq!(judge(coherency, pat, allowed), verdict);
        }
    }

    #[test]
    fn vendor_is_that_of_proc_cpuinfo() {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let vendor = String::from_utf8(cpu_vendor().to_vec()).unwrap();
        assert!(
            cpuinfo.contains(&format!("vendor_id\t: {vendor}\n")),
            "{vendor}"
        );
    }
}
