//! What the kernel shows of the host. Nothing is judged here.

use std::io;

use super::super::roots::Roots;

/// What the host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostFacts {
    /// Names of the IOMMUs that drive translation: "dmar0", "ivhd0".
    pub(super) iommus: Vec<String>,
    /// The domain type of each IOMMU group: "identity", "DMA".
    pub(super) group_types: Vec<String>,
    /// The firmware describes an IOMMU: "DMAR", "IVRS", "IORT".
    pub(super) firmware_table: Option<String>,
    /// AMD's processor, which decides what things are called.
    pub(super) amd: bool,
    /// Interrupts go through the IOMMU's remapping; `None` where that is no question (not x86).
    pub(super) interrupt_remapping: Option<bool>,
    /// allow_unsafe_interrupts of type1 or iommufd is on.
    pub(super) unsafe_interrupts: bool,
    /// enable_unsafe_noiommu_mode of vfio is on.
    pub(super) noiommu: bool,
    /// Where vfio-pci is.
    pub(super) vfio_pci: Driver,
    /// /dev/vfio/vfio.
    pub(super) container_node: bool,
    /// /dev/iommu.
    pub(super) iommufd: bool,
    /// /dev/vfio/devices, the device nodes for iommufd.
    pub(super) cdev: bool,
    /// Soft limit of locked memory in bytes; `None` for no limit.
    pub(super) memlock: Option<u64>,
    /// This process may lock any amount (CAP_IPC_LOCK).
    pub(super) may_lock_any: bool,
    /// Sizes in KiB of huge pages, how many there are and how many are free.
    pub(super) huge_pages: Vec<HugePages>,
    /// Whether /dev/kvm can be opened.
    pub(super) kvm: Node,
    /// What the kernel says of "MMIO stale data".
    pub(super) mmio_stale_data: Option<String>,
}

/// Where a driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    /// A part of the kernel image.
    BuiltIn,
    /// A module, loaded.
    Loaded,
    /// A module, not loaded.
    NotLoaded,
    /// Nowhere.
    Missing,
}

/// Whether a device node can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    /// It can be opened.
    Usable,
    /// It is there, but not for this user.
    Forbidden,
    /// It is not there, or does not work.
    Missing,
}

/// One size of huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HugePages {
    pub(super) kib: u64,
    pub(super) total: u64,
    pub(super) free: u64,
}

impl HostFacts {
    /// Looks at the host.
    pub(super) fn read(roots: &Roots) -> HostFacts {
        let sysfs = &roots.sysfs;
        let on = |module: &str, parameter: &str| {
            sysfs.module_parameter(module, parameter).as_deref() == Some("Y")
        };
        let groups = sysfs.names("kernel/iommu_groups");
        let group_types = groups
            .iter()
            .filter_map(|group| sysfs.text(&format!("kernel/iommu_groups/{group}/type")));
        let tables = ["DMAR", "IVRS", "IORT", "VIOT"];
        let firmware_table = tables
            .into_iter()
            .find(|name| sysfs.path(&format!("firmware/acpi/tables/{name}")).exists());
        HostFacts {
            iommus: sysfs.names("class/iommu"),
            group_types: group_types.collect(),
            firmware_table: firmware_table.map(str::to_owned),
            amd: roots
                .proc_text("cpuinfo")
                .is_some_and(|text| text.contains("AuthenticAMD")),
            interrupt_remapping: interrupt_remapping(roots),
            unsafe_interrupts: on("vfio_iommu_type1", "allow_unsafe_interrupts")
                || on("iommufd", "allow_unsafe_interrupts"),
            noiommu: on("vfio", "enable_unsafe_noiommu_mode"),
            vfio_pci: vfio_pci(roots),
            container_node: roots.dev.join("vfio/vfio").exists(),
            iommufd: roots.dev.join("iommu").exists(),
            cdev: device_nodes(roots),
            memlock: memlock(roots),
            may_lock_any: may_lock_any(roots),
            huge_pages: huge_pages(roots),
            kvm: node(&roots.dev.join("kvm")),
            mmio_stale_data: sysfs.text("devices/system/cpu/vulnerabilities/mmio_stale_data"),
        }
    }
}

/// Whether VFIO has nodes for devices. Its class in sysfs is there without CONFIG_VFIO_DEVICE_CDEV too, the nodes' number is not.
fn device_nodes(roots: &Roots) -> bool {
    let numbers = roots.proc_text("devices").unwrap_or_default();
    roots.dev.join("vfio/devices").exists()
        || numbers.lines().any(|line| line.ends_with(" vfio-dev"))
}

/// On x86 the names of the interrupt controllers tell: IR-IO-APIC and IR-PCI-MSI are behind a remapping unit.
fn interrupt_remapping(roots: &Roots) -> Option<bool> {
    let text = roots.proc_text("interrupts")?;
    text.contains("IO-APIC")
        .then(|| text.contains("IR-IO-APIC"))
}

fn vfio_pci(roots: &Roots) -> Driver {
    let sysfs = &roots.sysfs;
    if sysfs.path("bus/pci/drivers/vfio-pci").exists() {
        return if sysfs.path("module/vfio_pci/initstate").exists() {
            Driver::Loaded
        } else {
            Driver::BuiltIn
        };
    }
    let release = roots.proc_text("sys/kernel/osrelease").unwrap_or_default();
    let list = roots.modules.join(release.trim()).join("modules.dep");
    let known = std::fs::read_to_string(list).is_ok_and(|text| {
        text.lines()
            .filter_map(|line| line.split(':').next()?.rsplit('/').next())
            .any(|file| file.starts_with("vfio-pci.ko") || file.starts_with("vfio_pci.ko"))
    });
    if known {
        Driver::NotLoaded
    } else {
        Driver::Missing
    }
}

/// "Max locked memory  8388608  8388608  bytes" of proc(5) limits.
fn memlock(roots: &Roots) -> Option<u64> {
    let text = roots.proc_text("self/limits")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn may_lock_any(roots: &Roots) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let text = roots.proc_text("self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    set.is_some_and(|set| set & (1 << CAP_IPC_LOCK) != 0)
}

fn huge_pages(roots: &Roots) -> Vec<HugePages> {
    let sizes = roots.sysfs.names("kernel/mm/hugepages");
    let mut pages: Vec<HugePages> = sizes
        .iter()
        .filter_map(|name| {
            let number = |file| {
                let text = roots
                    .sysfs
                    .text(&format!("kernel/mm/hugepages/{name}/{file}"))?;
                text.parse().ok()
            };
            Some(HugePages {
                kib: name
                    .strip_prefix("hugepages-")?
                    .strip_suffix("kB")?
                    .parse()
                    .ok()?,
                total: number("nr_hugepages")?,
                free: number("free_hugepages")?,
            })
        })
        .collect();
    pages.sort_by_key(|pages| pages.kib);
    pages
}

fn node(path: &std::path::Path) -> Node {
    match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
    {
        Ok(_) => Node::Usable,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Node::Forbidden,
        Err(_) => Node::Missing,
    }
}
