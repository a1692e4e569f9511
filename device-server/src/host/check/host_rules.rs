//! What the facts of the host mean.

use super::finding::Finding;
use super::host_facts::{Driver, HostFacts, Node};

/// One finding per question, in the order in which they are best dealt with.
pub(super) fn judge(facts: &HostFacts) -> Vec<Finding> {
    vec![
        iommu(facts),
        interrupt_remapping(facts),
        unsafe_interrupts(facts),
        noiommu(facts),
        vfio_pci(facts),
        vfio_interface(facts),
        iommufd(facts),
        memlock(facts),
        huge_pages(facts),
        kvm(facts),
        mmio_stale_data(facts),
    ]
}

fn iommu(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "iommu";
    let option = if facts.amd {
        "AMD's is on by default: remove amd_iommu=off or iommu=off from the kernel command line"
    } else {
        "put intel_iommu=on on the kernel command line"
    };
    if facts.iommus.is_empty() && facts.group_types.is_empty() {
        return match &facts.firmware_table {
            Some(table) => Finding::blocked(
                SUBJECT,
                format!(
                    "off: the firmware describes one ({table}), and the kernel does not use it"
                ),
                format!("{option}, and boot again"),
            ),
            None => Finding::blocked(
                SUBJECT,
                "none: the firmware describes none",
                format!(
                    "turn on {} in the firmware setup; in a virtual machine, give it an IOMMU",
                    if facts.amd { "AMD-Vi (IOMMU)" } else { "VT-d" }
                ),
            ),
        };
    }
    if facts.group_types.is_empty() {
        return Finding::blocked(
            SUBJECT,
            format!(
                "{} is there, but no device is in an IOMMU group",
                facts.iommus.join(", ")
            ),
            format!("{option}, and boot again"),
        );
    }
    let identity = facts
        .group_types
        .iter()
        .filter(|name| *name == "identity")
        .count();
    let all = facts.group_types.len();
    let mode = match identity {
        0 => "the host's own devices are translated too".to_owned(),
        some if some == all => "the host's own devices pass through untranslated".to_owned(),
        some => format!("{some} of them pass through untranslated while the host has them"),
    };
    let names = match facts.iommus.as_slice() {
        [] => "on".to_owned(),
        names => format!("on ({})", names.join(", ")),
    };
    Finding::ok(SUBJECT, format!("{names}, {all} groups; {mode}"))
}

fn interrupt_remapping(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "interrupt remapping";
    match facts.interrupt_remapping {
        Some(true) => Finding::ok(SUBJECT, "on"),
        Some(false) => Finding::blocked(
            SUBJECT,
            "off: a guest could make its device send any interrupt to the host, so VFIO refuses",
            "turn it on in the firmware setup, and remove intremap=off from the kernel command line",
        ),
        None => Finding::ok(SUBJECT, "no question on this machine"),
    }
}

fn unsafe_interrupts(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "unsafe interrupts";
    if facts.unsafe_interrupts {
        return Finding::blocked(
            SUBJECT,
            "allowed: Bulkhead passes no device like this",
            "load vfio_iommu_type1 (or iommufd) with allow_unsafe_interrupts=0, see /etc/modprobe.d",
        );
    }
    Finding::ok(SUBJECT, "not allowed")
}

fn noiommu(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "no-IOMMU mode";
    if facts.noiommu {
        return Finding::warning(
            SUBJECT,
            "allowed: a device without IOMMU reaches all memory; Bulkhead passes none",
            "load vfio with enable_unsafe_noiommu_mode=0, see /etc/modprobe.d",
        );
    }
    Finding::ok(SUBJECT, "not allowed")
}

fn vfio_pci(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "vfio-pci";
    match facts.vfio_pci {
        Driver::BuiltIn => Finding::ok(SUBJECT, "built into the kernel"),
        Driver::Loaded => Finding::ok(SUBJECT, "loaded"),
        Driver::NotLoaded => Finding::warning(
            SUBJECT,
            "a module that is not loaded",
            "modprobe vfio-pci; `host bind` does it too",
        ),
        Driver::Missing => Finding::blocked(
            SUBJECT,
            "neither in the kernel nor among its modules",
            "install a kernel with CONFIG_VFIO_PCI",
        ),
    }
}

fn vfio_interface(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "vfio groups";
    if facts.container_node {
        return Finding::ok(SUBJECT, "/dev/vfio/vfio is there");
    }
    match facts.vfio_pci {
        Driver::NotLoaded => Finding::warning(
            SUBJECT,
            "/dev/vfio/vfio is not there, as vfio is not loaded",
            "modprobe vfio-pci",
        ),
        Driver::BuiltIn | Driver::Loaded | Driver::Missing => Finding::blocked(
            SUBJECT,
            "/dev/vfio/vfio is not there",
            "modprobe vfio_iommu_type1, or install a kernel with CONFIG_VFIO_GROUP and CONFIG_VFIO_IOMMU_TYPE1",
        ),
    }
}

/// Without it a device server takes the group: nothing here keeps it from working.
fn iommufd(facts: &HostFacts) -> Finding {
    let text = match (facts.iommufd, facts.cdev) {
        (true, true) => "/dev/iommu and device nodes in /dev/vfio/devices are there",
        (true, false) => "/dev/iommu is there, device nodes in /dev/vfio/devices are not",
        (false, _) => "not in this kernel; not needed",
    };
    Finding::ok("iommufd", text)
}

fn memlock(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "memlock";
    let Some(bytes) = facts.memlock else {
        return Finding::ok(SUBJECT, "no limit");
    };
    let mib = bytes >> 20;
    if facts.may_lock_any {
        return Finding::ok(SUBJECT, format!("{mib} MiB, which does not bind this user"));
    }
    Finding::warning(
        SUBJECT,
        format!("{mib} MiB: all memory of a guest is pinned, and counts"),
        "raise it above the guest's memory: LimitMEMLOCK= in the service, or /etc/security/limits.conf",
    )
}

fn huge_pages(facts: &HostFacts) -> Finding {
    let texts: Vec<String> = facts
        .huge_pages
        .iter()
        .filter(|pages| pages.total > 0)
        .map(|pages| {
            let size = match pages.kib {
                kib if kib >= 1 << 20 => format!("{} GiB", kib >> 20),
                kib if kib >= 1 << 10 => format!("{} MiB", kib >> 10),
                kib => format!("{kib} KiB"),
            };
            format!("{} of {size}, {} free", pages.total, pages.free)
        })
        .collect();
    let text = if texts.is_empty() {
        "none reserved; a guest does not need any".to_owned()
    } else {
        texts.join("; ")
    };
    Finding::ok("huge pages", text)
}

fn kvm(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "kvm";
    match facts.kvm {
        Node::Usable => Finding::ok(SUBJECT, "/dev/kvm can be used"),
        Node::Forbidden => Finding::warning(
            SUBJECT,
            "/dev/kvm is there, but not for this user",
            "run the VMM as root or as a member of the group that owns /dev/kvm",
        ),
        Node::Missing => Finding::blocked(
            SUBJECT,
            "/dev/kvm is not there or does not work",
            format!(
                "turn on {}, then modprobe {}",
                if facts.amd {
                    "SVM in the firmware setup"
                } else {
                    "VT-x in the firmware setup"
                },
                if facts.amd { "kvm_amd" } else { "kvm_intel" }
            ),
        ),
    }
}

fn mmio_stale_data(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "mmio stale data";
    let Some(text) = facts.mmio_stale_data.as_deref() else {
        return Finding::warning(
            SUBJECT,
            "this kernel does not know of it",
            "use a kernel from 5.19 on, or one with its security fixes",
        );
    };
    let exposed = text.starts_with("Vulnerable") || text.starts_with("Unknown");
    if exposed {
        return Finding::warning(
            SUBJECT,
            format!("{text}: a guest with a passed device may read stale data of others"),
            "update the processor's microcode, and do not boot with mitigations=off",
        );
    }
    if text.contains("SMT vulnerable") {
        return Finding::warning(
            SUBJECT,
            text,
            "boot with mmio_stale_data=full,nosmt if guests do not trust each other",
        );
    }
    Finding::ok(SUBJECT, text.to_lowercase())
}
