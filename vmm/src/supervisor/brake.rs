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
use std::time::Duration;

use protocol::pci::PciAddress;

use super::hosts::{self, SYSFS};

const COMMAND: u64 = 0x04;
const BUS_MASTER: u8 = 1 << 2;
/// How long one look at a device may take.
const LOOK: Duration = Duration::from_millis(50);

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
pub(super) fn may_do_dma(device: PciAddress) -> bool {
    static LOOKS: AtomicBool = AtomicBool::new(false);
    if LOOKS.swap(true, Ordering::Relaxed) {
        return true;
    }
    let (sender, found) = channel();
    let look = std::thread::Builder::new()
        .name("look".to_owned())
        .spawn(move || {
            let config = hosts::folder_of(Path::new(SYSFS), device).join("config");
            let command = File::open(config).and_then(|file| command(&file));
            LOOKS.store(false, Ordering::Relaxed);
            // Who asked may have given up.
            let _taken = sender.send(command);
        });
    if look.is_err() {
        LOOKS.store(false, Ordering::Relaxed);
        return true;
    }
    match found.recv_timeout(LOOK) {
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
}
