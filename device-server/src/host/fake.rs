//! A host for tests: a folder with sys, proc, dev and run, and a kernel that moves devices between drivers in it.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use protocol::PciAddress;

use super::kernel::{Kernel, Step, StepError};
use super::notes::{Before, Lock};
use super::rebind::Mover;
use super::roots::Roots;

/// The folder; removed on drop.
#[derive(Debug)]
pub(super) struct FakeHost {
    root: PathBuf,
    pub(super) roots: Roots,
}

impl FakeHost {
    /// A host with vfio-pci and no devices.
    pub(super) fn new() -> FakeHost {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root =
            std::env::temp_dir().join(format!("bulkhead-host-{}-{number}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        // Links that tests compare are absolute: without links in the way to them.
        let root = root.canonicalize().unwrap();
        let host = FakeHost {
            roots: Roots::below(&root),
            root,
        };
        host.file("sys/bus/pci/drivers_probe", "");
        host.file("sys/bus/pci/drivers/vfio-pci/new_id", "");
        host.file("proc/self/mountinfo", "");
        host
    }

    /// Writes a file below the root.
    pub(super) fn file(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A path below the root.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A link below the root to another path below it.
    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.root.join(target), path).unwrap();
    }

    /// Adds a device at `address`, below `parent` ("0000:00:08.0", or "" for the root bus).
    pub(super) fn device(
        &self,
        parent: &str,
        address: &str,
        driver: Option<&str>,
        group: Option<u32>,
    ) {
        let bus = "sys/devices/pci0000:00";
        let real = if parent.is_empty() {
            format!("{bus}/{address}")
        } else {
            format!("{bus}/{parent}/{address}")
        };
        self.file(&format!("{real}/driver_override"), "(null)\n");
        self.file(&format!("{real}/class"), "0x010802\n");
        self.file(&format!("{real}/vendor"), "0x8086\n");
        self.file(&format!("{real}/device"), "0x10d3\n");
        self.link(&format!("sys/bus/pci/devices/{address}"), &real);
        if let Some(driver) = driver {
            self.link(
                &format!("{real}/driver"),
                &format!("sys/bus/pci/drivers/{driver}"),
            );
        }
        if let Some(group) = group {
            let folder = format!("sys/kernel/iommu_groups/{group}");
            self.file(&format!("{folder}/type"), "DMA\n");
            self.link(&format!("{real}/iommu_group"), &folder);
            self.link(&format!("{folder}/devices/{address}"), &real);
        }
    }

    /// Adds a disk of a device on the root bus, mounted on `place` if there is one.
    pub(super) fn disk(&self, address: &str, name: &str, number: &str, place: Option<&str>) {
        let real = format!("sys/devices/pci0000:00/{address}/block/{name}");
        self.file(&format!("{real}/dev"), &format!("{number}\n"));
        self.link(&format!("sys/class/block/{name}"), &real);
        if let Some(place) = place {
            let line = format!("36 35 {number} / {place} rw shared:1 - ext4 /dev/{name} rw\n");
            self.file("proc/self/mountinfo", &line);
        }
    }

    /// The driver of a device now.
    pub(super) fn driver(&self, address: &str) -> Option<String> {
        let link =
            fs::read_link(self.path(&format!("sys/bus/pci/devices/{address}/driver"))).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    /// A file's text, trimmed.
    pub(super) fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path))
            .unwrap()
            .trim()
            .to_owned()
    }

    pub(super) fn override_of(&self, address: &str) -> String {
        self.text(&format!("sys/bus/pci/devices/{address}/driver_override"))
    }

    /// Moves devices with `kernel`.
    pub(super) fn mover<'a>(&'a self, kernel: &'a FakeKernel<'a>) -> Mover<'a> {
        Mover {
            roots: &self.roots,
            kernel,
            limit_seconds: 30,
        }
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The driver of this device does not let it go.
    Holds(&'static str),
    /// No driver takes this device while vfio-pci is asked to.
    VfioRefuses(&'static str),
    /// The host's driver does not take this device back.
    HostRefuses(&'static str),
}

/// A kernel whose drivers are quick, but for one fault.
#[derive(Debug)]
pub(super) struct FakeKernel<'a> {
    host: &'a FakeHost,
    /// The driver that fits all devices.
    fitting: &'static str,
    fault: Fault,
    pub(super) steps: RefCell<Vec<(String, Step)>>,
}

impl<'a> FakeKernel<'a> {
    pub(super) fn new(host: &'a FakeHost, fitting: &'static str, fault: Fault) -> FakeKernel<'a> {
        FakeKernel {
            host,
            fitting,
            fault,
            steps: RefCell::new(Vec::new()),
        }
    }

    fn probe(&self, address: &str, link: &Path) {
        let wanted = match self.host.override_of(address).as_str() {
            "" | "(null)" => self.fitting.to_owned(),
            driver => driver.to_owned(),
        };
        let refused = match self.fault {
            Fault::VfioRefuses(device) => device == address && wanted == "vfio-pci",
            Fault::HostRefuses(device) => device == address && wanted != "vfio-pci",
            Fault::None | Fault::Holds(_) => false,
        };
        if !refused && !link.exists() && fs::read_link(link).is_err() {
            let driver = self.host.path(&format!("sys/bus/pci/drivers/{wanted}"));
            symlink(driver, link).unwrap();
        }
    }
}

impl Kernel for FakeKernel<'_> {
    fn set_override(&self, address: PciAddress, driver: &str) -> io::Result<()> {
        let path = self
            .host
            .path(&format!("sys/bus/pci/devices/{address}/driver_override"));
        fs::write(path, format!("{driver}\n"))
    }

    fn step(
        &self,
        address: PciAddress,
        step: Step,
        before: &Before,
        _: &Lock,
    ) -> Result<(), StepError> {
        let address = address.to_string();
        let device = self.host.path(&format!("sys/bus/pci/devices/{address}"));
        let link = device.join("driver");
        self.steps.borrow_mut().push((address.clone(), step));
        match step {
            Step::Unbind if self.fault_holds(&address) => {
                // What the helper process does once the driver is done.
                fs::write(device.join("driver_override"), &before.driver_override).unwrap();
                return Err(StepError::TooSlow);
            }
            Step::Unbind => fs::remove_file(link).unwrap(),
            Step::Probe => self.probe(&address, &link),
            Step::VirtualFunctions { to, .. } => {
                fs::write(device.join("sriov_numvfs"), to.to_string()).unwrap();
            }
        }
        Ok(())
    }

    fn load_vfio_pci(&self) {}
}

impl FakeKernel<'_> {
    fn fault_holds(&self, address: &str) -> bool {
        matches!(self.fault, Fault::Holds(device) if device == address)
    }
}
