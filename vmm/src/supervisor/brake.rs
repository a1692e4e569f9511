//! Stops the DMA of a group's devices without their server: the emergency brake.
//!
//! A mapping of a BAR keeps a device and its DMA alive after its server has died, and the group cannot be opened to reset it.
//! Configuration space in sysfs still works: without bus mastering a device starts no access of its own.
//!
//! Spec: PCI Local Bus 3.0 §6.2.2 (Command).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::hosts::{self, SYSFS};

const COMMAND: u64 = 0x04;
const BUS_MASTER: u8 = 1 << 2;

/// Clears the bus master bit of every device of the group that VFIO has. On a thread of its own, which the process does not
/// wait for: the kernel holds such a write up while a device is being reset.
pub(super) fn stop_dma(group: u32) -> io::Result<()> {
    std::thread::Builder::new()
        .name("brake".to_owned())
        .spawn(move || {
            for folder in hosts::vfio_devices(Path::new(SYSFS), group) {
                let device = folder.file_name().unwrap_or_default().to_os_string();
                match clear_bus_master(&folder.join("config")) {
                    Ok(()) => tracing::warn!(?device, "DMA stopped: bus mastering is off"),
                    Err(error) => {
                        tracing::error!(?device, %error, "DMA of the device cannot be stopped");
                    }
                }
            }
        })
        .map(drop)
}

fn clear_bus_master(config: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(config)?;
    let mut low = [0];
    file.read_exact_at(&mut low, COMMAND)?;
    let [command] = low;
    file.write_all_at(&[command & !BUS_MASTER], COMMAND)
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
}
