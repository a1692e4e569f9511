//! A PCI device of the lab machine as its kernel sees it: who drives it, and what is on its disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::deadline::{HOST_DRIVER, eventually};
use crate::pattern::BLOCK_BYTES;

/// Addresses that scripts/lab gives to its devices.
pub const NVME: &str = "0000:00:04.0";
pub const E1000E: &str = "0000:00:05.0";

/// The low byte of a device's COMMAND register, and the bit in it that lets the device start DMA.
const COMMAND: u64 = 4;
const BUS_MASTER: u8 = 1 << 2;

/// One device of the host, by its address.
#[derive(Debug, Clone, Copy)]
pub struct HostDevice<'a> {
    address: &'a str,
}

impl<'a> HostDevice<'a> {
    pub const fn at(address: &'a str) -> Self {
        Self { address }
    }

    /// The driver that has the device now.
    pub fn driver(self) -> Option<String> {
        let link = fs::read_link(self.file("driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// The number of its IOMMU group.
    pub fn group(self) -> Result<String> {
        let link = fs::read_link(self.file("iommu_group"))
            .with_context(|| format!("IOMMU group of {}", self.address))?;
        Ok(link
            .file_name()
            .context("a group has a number")?
            .to_string_lossy()
            .into_owned())
    }

    /// Whether the device may start DMA now: the bus master bit of its COMMAND register.
    pub fn is_bus_master(self) -> Result<bool> {
        let mut low = [0];
        File::open(self.file("config"))?.read_exact_at(&mut low, COMMAND)?;
        Ok(low[0] & BUS_MASTER != 0)
    }

    /// Lets the device start DMA, as firmware or a driver may have left it.
    pub fn become_bus_master(self) -> Result<()> {
        let config = File::options()
            .read(true)
            .write(true)
            .open(self.file("config"))?;
        let mut low = [0];
        config.read_exact_at(&mut low, COMMAND)?;
        config.write_all_at(&[low[0] | BUS_MASTER], COMMAND)?;
        Ok(())
    }

    /// Gives the device to vfio-pci; nothing changes where it has it already.
    pub fn give_to_vfio(self) -> Result<()> {
        if self.driver().as_deref() == Some("vfio-pci") {
            return Ok(());
        }
        self.rebind("vfio-pci")?;
        let driver = self.driver();
        ensure!(
            driver.as_deref() == Some("vfio-pci"),
            "{} went to {driver:?}, not to vfio-pci",
            self.address
        );
        Ok(())
    }

    /// Gives the device back to the driver that the host's kernel has for it.
    pub fn give_to_host(self) -> Result<()> {
        self.rebind("")
    }

    /// Takes the device from any driver, and leaves it with none.
    pub fn take_from_driver(self) -> Result<()> {
        if self.driver().is_some() {
            fs::write(self.file("driver/unbind"), self.address)
                .with_context(|| format!("unbind {}", self.address))?;
        }
        Ok(())
    }

    fn rebind(self, driver: &str) -> Result<()> {
        fs::write(self.file("driver_override"), format!("{driver}\n"))
            .with_context(|| format!("driver_override of {}", self.address))?;
        self.take_from_driver()?;
        fs::write("/sys/bus/pci/drivers_probe", self.address)
            .with_context(|| format!("probe {}", self.address))
    }

    /// The content of a block of this NVMe disk, read by the host's own driver.
    pub fn read_block_as_host(self, block: u64) -> Result<Vec<u8>> {
        let disk = self.host_disk()?;
        let mut content = vec![0; BLOCK_BYTES];
        // The node is there before the driver has found out what is behind it.
        let what = format!("read block {block} of {}", disk.display());
        eventually(&what, HOST_DRIVER, || {
            let file = File::open(&disk).ok()?;
            file.read_exact_at(&mut content, block * 4096).ok()
        })?;
        Ok(content)
    }

    fn host_disk(self) -> Result<PathBuf> {
        if self.driver().as_deref() != Some("nvme") {
            self.give_to_host()?;
        }
        eventually(&format!("a disk of {}", self.address), HOST_DRIVER, || {
            let controller = first_entry(&self.file("nvme"))?;
            let namespace = entries(&controller)
                .into_iter()
                .find(|path| path.join("size").exists())?;
            let node = Path::new("/dev").join(namespace.file_name()?);
            node.exists().then_some(node)
        })
    }

    fn file(self, name: &str) -> PathBuf {
        Path::new("/sys/bus/pci/devices")
            .join(self.address)
            .join(name)
    }
}

fn first_entry(folder: &Path) -> Option<PathBuf> {
    entries(folder).into_iter().next()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|found| found.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}
