//! Who holds the devices of a group whose server has ended: nobody, somebody else by now, or still one of ours.
//!
//! A group has one opener, of its own node or of its devices' nodes. A mapping of a BAR of its devices counts as well: until the last is gone the node is busy
//! (kernel-vfio-facts.md section 10).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::hosts::{SYSFS, VFIO_NODES, vfio_devices};

/// Whether a group can be opened, or is not VFIO's any more. It cannot while a device of it is bound to an iommufd.
pub(super) fn is_free(group: u32) -> bool {
    let opened = File::options().read(true).write(true).open(node(group));
    opened.map_or_else(
        |error| error.kind() != io::ErrorKind::ResourceBusy,
        |_| true,
    )
}

/// Whether a process that is none of `ours` has opened the group or a device of it: then ours have let go, or it could not.
pub(super) fn has_another_opener(group: u32, ours: &[i32]) -> bool {
    openers(Path::new("/proc"), &nodes(Path::new(SYSFS), group))
        .iter()
        .any(|pid| !ours.contains(pid))
}

fn node(group: u32) -> PathBuf {
    Path::new(VFIO_NODES).join(group.to_string())
}

/// The node of the group, and those of its devices.
fn nodes(sysfs: &Path, group: u32) -> Vec<PathBuf> {
    let of_device = |device: PathBuf| {
        std::fs::read_dir(device.join("vfio-dev"))
            .into_iter()
            .flatten()
    };
    let names = vfio_devices(sysfs, group)
        .into_iter()
        .flat_map(of_device)
        .flatten();
    let devices = names.map(|entry| {
        Path::new(VFIO_NODES)
            .join("devices")
            .join(entry.file_name())
    });
    devices.chain([node(group)]).collect()
}

/// The processes that have one of these files open, as far as this user may look.
fn openers(proc: &Path, files: &[PathBuf]) -> Vec<i32> {
    let folders = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_it = |pid: &i32| {
        let fds = std::fs::read_dir(proc.join(format!("{pid}/fd")));
        let mut targets = fds.into_iter().flatten().flatten();
        targets.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| files.contains(&target)))
    };
    pids.filter(has_it).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_has_a_file_open_is_found_until_it_closes_it() {
        let path = std::env::temp_dir().join(format!("bulkhead-holders-{}", std::process::id()));
        let own = i32::try_from(std::process::id()).unwrap();
        let file = File::create(&path).unwrap();
        let wanted = [PathBuf::from("/dev/vfio/none"), path];
        assert_eq!(openers(Path::new("/proc"), &wanted), [own]);
        drop(file);
        assert!(openers(Path::new("/proc"), &wanted).is_empty());
        let [_, path] = wanted;
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn group_has_a_node_for_itself_and_for_each_device_that_vfio_has() {
        let root = std::env::temp_dir().join(format!("bulkhead-nodes-{}", std::process::id()));
        let device = root.join("kernel/iommu_groups/12/devices/0000:1a:00.3");
        std::fs::create_dir_all(device.join("vfio-dev/vfio7")).unwrap();
        std::os::unix::fs::symlink("/drivers/vfio-pci", device.join("driver")).unwrap();
        let found = nodes(&root, 12);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(
            found,
            ["/dev/vfio/devices/vfio7", "/dev/vfio/12"].map(PathBuf::from)
        );
    }

    #[test]
    fn group_without_a_node_is_not_held() {
        assert!(is_free(u32::MAX));
        assert!(!has_another_opener(u32::MAX, &[]));
    }
}
