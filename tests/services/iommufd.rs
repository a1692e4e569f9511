//! A host whose kernel has iommufd: the server's unit takes that way, with nodes that are its user's.
//!
//! Lab machine: the lab's own kernel.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::pattern::record_in_hex;

use crate::installed::{BLUE, Host, run};

const IOMMUFD: &str = "/dev/iommu";

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_has_its_device_through_iommufd_and_gives_both_nodes_back() -> Result<()> {
    ensure!(Path::new(IOMMUFD).exists(), "this kernel has no iommufd");
    let host = Host::install()?;
    host.systemctl(&["start", &BLUE.socket()])?;
    for _ in ["first", "second"] {
        host.systemctl(&["start", &BLUE.vm()])?;
        BLUE.wait_for_guest(&format!("BLOCK {}", record_in_hex(99)))?;
        let node = own_node()?;
        let open = open_files(&host.property(&BLUE.server(), "MainPID")?)?;
        for path in [IOMMUFD, node.as_str()] {
            ensure!(open.iter().any(|open| open == path), "{path}: {open:?}");
        }
        let no_group = !open.iter().any(|open| open == "/dev/vfio/vfio");
        ensure!(no_group, "no type1 container: {open:?}");
        let user = host.user(&BLUE.server())?;
        let owner = fs::metadata(&node)?.uid().to_string();
        ensure!(user.split('\t').next() == Some(&owner), "{owner} of {user}");
        host.systemctl(&["stop", &BLUE.vm()])?;
    }
    host.systemctl(&["stop", &BLUE.socket(), &BLUE.server()])?;
    ensure!(fs::metadata(own_node()?)?.uid() == 0, "given back");
    ensure!(BLUE.node_owner()? == 0, "the group's, too");
    Ok(())
}

/// The node of the device itself.
fn own_node() -> Result<String> {
    let folder = format!("/sys/bus/pci/devices/{}/vfio-dev", BLUE.device);
    let name = run("ls", &[&folder])?;
    Ok(format!("/dev/vfio/devices/{}", name.trim()))
}

fn open_files(pid: &str) -> Result<Vec<String>> {
    let folder = format!("/proc/{pid}/fd");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).context(folder)? {
        // A descriptor that is closed meanwhile is none.
        if let Ok(target) = fs::read_link(entry?.path()) {
            files.push(target.to_string_lossy().into_owned());
        }
    }
    Ok(files)
}
