//! The NVMe's IOMMU group: when nobody has it any more.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use harness::deadline::{PROCESS, eventually};
use harness::host_device::{HostDevice, NVME};

/// Waits until the group can be opened.
pub(crate) fn wait_until_free() -> Result<()> {
    let group = Path::new("/dev/vfio").join(HostDevice::at(NVME).group()?);
    eventually("the group is free", PROCESS, || {
        let opened = File::options().read(true).write(true).open(&group);
        opened.is_ok().then_some(())
    })
}
