//! The disks of a PCI device, what is stacked on them, and which of those are mounted or swapped to.
//!
//! Linux `Documentation/ABI/testing/sysfs-block`; proc(5) for mountinfo and swaps. Not known here: network block devices.

use std::collections::BTreeSet;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::device::names_in;
use super::roots::Roots;

/// A disk, partition or stacked device (device mapper, RAID).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// As in /sys/class/block.
    pub(super) name: String,
    /// What device mapper calls it: /dev/mapper/NAME.
    mapper_name: Option<String>,
    /// Major and minor number, "259:0".
    number: String,
    /// Its partitions are looked at by themselves.
    pub(super) has_partitions: bool,
}

impl Disk {
    /// Whether a path such as /dev/sda1 or /dev/mapper/root names it.
    pub(super) fn has_name(&self, path: &str) -> bool {
        let Some(name) = path.strip_prefix("/dev/") else {
            return false;
        };
        name == self.name
            || name.strip_prefix("mapper/") == self.mapper_name.as_deref()
                && self.mapper_name.is_some()
    }
}

/// One line of mountinfo.
#[derive(Debug)]
pub(super) struct Mount {
    number: String,
    source: String,
    /// The mount point.
    pub(super) place: String,
}

impl Mount {
    /// Whether it is a file system on `disk`. Some (btrfs) have numbers of their own, so the source counts too.
    pub(super) fn is_on(&self, disk: &Disk) -> bool {
        self.number == disk.number || disk.has_name(&self.source)
    }
}

/// What is mounted in our mount namespace and in that of process 1.
pub(super) fn mounts(roots: &Roots) -> Vec<Mount> {
    ["self/mountinfo", "1/mountinfo"]
        .iter()
        .filter_map(|file| roots.proc_text(file))
        .flat_map(|text| text.lines().filter_map(mount).collect::<Vec<_>>())
        .collect()
}

/// "36 35 98:0 /root /mnt rw,noatime shared:1 - ext3 /dev/root rw": fields 3 and 5, and the second after " - ".
fn mount(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(2);
    let number = front.next()?.to_owned();
    let place = front.nth(1)?.to_owned();
    let source = back.split(' ').nth(1)?.to_owned();
    Some(Mount {
        number,
        source,
        place,
    })
}

/// What the host swaps to.
pub(super) fn swaps(roots: &Roots) -> Vec<String> {
    let text = roots.proc_text("swaps").unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

/// The disks of the device at `path` (canonical), their partitions, and all that is stacked on those.
pub(super) fn disks_on(roots: &Roots, path: &Path) -> Vec<Disk> {
    let all = roots.sysfs.names("class/block");
    let mut names = BTreeSet::new();
    for name in &all {
        let link = roots.sysfs.path(&format!("class/block/{name}"));
        if link.canonicalize().is_ok_and(|real| real.starts_with(path)) {
            add_with_holders(roots, name, &mut names);
            add_with_holders(roots, &multipath_head(name, &all), &mut names);
        }
    }
    names.iter().filter_map(|name| disk(roots, name)).collect()
}

/// With NVMe multipath the namespace that is used, nvme0n1, is no child of the PCI device; its path, nvme0c0n1, is.
fn multipath_head(name: &str, all: &[String]) -> String {
    let head = name.strip_prefix("nvme").and_then(|rest| {
        let (subsystem, rest) = rest.split_once('c')?;
        let (_, namespace) = rest.split_once('n')?;
        Some(format!("nvme{subsystem}n{namespace}"))
    });
    head.filter(|head| all.contains(head))
        .unwrap_or_else(|| name.to_owned())
}

fn add_with_holders(roots: &Roots, name: &str, names: &mut BTreeSet<String>) {
    if !names.insert(name.to_owned()) {
        return;
    }
    for holder in roots.sysfs.names(&format!("class/block/{name}/holders")) {
        add_with_holders(roots, &holder, names);
    }
    for part in partitions(roots, name) {
        add_with_holders(roots, &part, names);
    }
}

fn partitions(roots: &Roots, name: &str) -> Vec<String> {
    let folder = roots.sysfs.path(&format!("class/block/{name}"));
    names_in(&folder)
        .into_iter()
        .filter(|part| folder.join(part).join("partition").exists())
        .collect()
}

fn disk(roots: &Roots, name: &str) -> Option<Disk> {
    let file = |below: &str| roots.sysfs.text(&format!("class/block/{name}/{below}"));
    Some(Disk {
        name: name.to_owned(),
        mapper_name: file("dm/name"),
        number: file("dev")?,
        has_partitions: !partitions(roots, name).is_empty(),
    })
}

/// Whether the kernel keeps the disk for itself: then it cannot be opened exclusively (open(2), O_EXCL).
pub(super) fn is_claimed(node: &Path) -> bool {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_NONBLOCK)
        .open(node)
        .is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}
