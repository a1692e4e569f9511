//! Stops the DMA of a group's devices without their server, the emergency brake; and looks whether a device may do DMA.
//!
//! A mapping of a BAR keeps a device and its DMA alive after its server has died, and the group cannot be opened to reset it.
//! Configuration space in sysfs still works: without bus mastering a device starts no access of its own.
//!
//! Spec: PCI Local Bus 3.0 §6.2.2 (Command).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use protocol::pci::PciAddress;

use super::deadline::DEVICE_LOOK;
use super::hosts::{self, SYSFS};

const COMMAND: u64 = 0x04;
const BUS_MASTER: u8 = 1 << 2;

/// Clears the bus master bit of the devices, but of none that another driver has by now. On a thread of its own, which the process
/// does not wait for: the kernel holds such a write up while a device is being reset.
///
/// One that was unbound has no driver and is still open, so it counts.
pub(super) fn stop_dma(devices: Vec<PciAddress>) -> io::Result<()> {
    std::thread::Builder::new()
        .name("brake".to_owned())
        .spawn(move || {
            for device in devices {
                match stop_dma_of(Path::new(SYSFS), device) {
                    Ok(()) => tracing::warn!(pci = %device, "DMA stopped: bus mastering is off"),
                    Err(error) => {
                        tracing::error!(pci = %device, %error, "DMA of the device cannot be stopped");
                    }
                }
            }
        })
        .map(drop)
}

/// Whether a device may start accesses of its own: bus mastering is on, or that cannot be told soon. The kernel holds up whoever looks while
/// the device is being reset or woken, so another thread does, and one at a time.
pub(super) fn may_do_dma(sysfs: &Path, device: PciAddress) -> bool {
    static LOOKS: AtomicBool = AtomicBool::new(false);
    if LOOKS.swap(true, Ordering::Relaxed) {
        return true;
    }
    let config = hosts::folder_of(sysfs, device).join("config");
    let (sender, found) = channel();
    let look = std::thread::Builder::new()
        .name("look".to_owned())
        .spawn(move || {
            let command = File::open(config).and_then(|file| command(&file));
            LOOKS.store(false, Ordering::Relaxed);
            // Who asked may have given up.
            let _taken = sender.send(command);
        });
    if look.is_err() {
        LOOKS.store(false, Ordering::Relaxed);
        return true;
    }
    match found.recv_timeout(DEVICE_LOOK) {
        Ok(Ok(command)) => command & BUS_MASTER != 0,
        Ok(Err(_)) | Err(_) => true,
    }
}

fn stop_dma_of(sysfs: &Path, device: PciAddress) -> io::Result<()> {
    if hosts::another_driver_has(sysfs, device) {
        return Err(io::Error::other("another driver may have it"));
    }
    clear_bus_master(&hosts::folder_of(sysfs, device).join("config"))
}

fn clear_bus_master(config: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(config)?;
    file.write_all_at(&[command(&file)? & !BUS_MASTER], COMMAND)
}

/// The low byte of Command.
fn command(config: &File) -> io::Result<u8> {
    let mut low = [0];
    config.read_exact_at(&mut low, COMMAND)?;
    let [command] = low;
    Ok(command)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn bus_mastering_goes_and_the_rest_of_the_command_stays() {
        let path = std::env::temp_dir().join(format!("bulkhead-brake-{}", std::process::id()));
        std::fs::write(&path, [0x86, 0x80, 0xd3, 0x10, 0x07, 0x04, 0x10, 0x00]).unwrap();
        clear_bus_master(&path).unwrap();
        let after = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(after, [0x86, 0x80, 0xd3, 0x10, 0x03, 0x04, 0x10, 0x00]);
    }

    /// The command register afterwards of a device with this driver.
    fn command_after(driver: Option<&str>) -> u8 {
        let name = format!("bulkhead-brake-{}-{driver:?}", std::process::id());
        let sysfs = std::env::temp_dir().join(name);
        let device = "0000:00:04.0".parse().unwrap();
        let folder = hosts::folder_of(&sysfs, device);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config"), [0x86, 0x80, 0xd3, 0x10, 0x07]).unwrap();
        if let Some(driver) = driver {
            std::os::unix::fs::symlink(format!("../drivers/{driver}"), folder.join("driver"))
                .unwrap();
        }
        let stopped = stop_dma_of(&sysfs, device);
        let command = std::fs::read(folder.join("config")).unwrap()[4];
        std::fs::remove_dir_all(sysfs).unwrap();
        assert_eq!(stopped.is_ok(), command == 0x03);
        command
    }

    #[test]
    fn device_that_vfio_has_or_that_was_unbound_is_stopped_and_one_of_another_driver_is_not() {
        let commands = [Some("vfio-pci"), None, Some("nvme")].map(command_after);
        assert_eq!(commands, [0x03, 0x03, 0x07]);
    }
    /// A device whose configuration space is this file, in a folder of its own.
    fn device(name: &str, make: impl FnOnce(&Path)) -> (PathBuf, PciAddress) {
        let name = format!("bulkhead-look-{}-{name}", std::process::id());
        let sysfs = std::env::temp_dir().join(name);
        let device = "0000:00:04.0".parse().unwrap();
        let folder = hosts::folder_of(&sysfs, device);
        std::fs::create_dir_all(&folder).unwrap();
        make(&folder.join("config"));
        (sysfs, device)
    }

    /// One test, since there is one look at a time.
    #[test]
    fn device_may_do_dma_unless_its_bus_mastering_is_seen_to_be_off() {
        let with = |command: u8| {
            device(&command.to_string(), |config| {
                std::fs::write(config, [0x86, 0x80, 0xd3, 0x10, command]).unwrap();
            })
        };
        let ((off, address), (on, _)) = (with(0x03), with(0x07));
        // A busy host may be late.
        let in_time = Instant::now() + Duration::from_secs(10);
        while may_do_dma(&off, address) {
            assert!(Instant::now() < in_time);
        }
        assert!(may_do_dma(&on, address));
        let (nothing, _) = device("nothing", |_| {});
        assert!(may_do_dma(&nothing, address), "it cannot be read");
        let (held, _) = device("held", |config| {
            mknodat(CWD, config, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        });
        let begun = Instant::now();
        assert!(may_do_dma(&held, address), "whoever opens it waits");
        assert!(begun.elapsed() >= DEVICE_LOOK);
        assert!(may_do_dma(&off, address), "another look is under way");
        let config = hosts::folder_of(&held, address).join("config");
        drop(File::options().write(true).open(config).unwrap());
        while may_do_dma(&off, address) {
            assert!(Instant::now() < in_time, "and it can be looked again");
        }
        for folder in [off, on, nothing, held] {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}
