//! The host that the manual speaks of: the package is installed, vfio-pci is not loaded, and there are images for two guests.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result};
use harness::guest::Guest;
use harness::host_device::HostDevice;
use harness::packaged;

/// The manual's device.
pub(crate) const DEVICE: &str = "0000:1a:00.3";
/// The other function of its card.
pub(crate) const SIBLING: &str = "0000:1a:00.0";
/// What the manual calls the host's driver and the device's group, and what they are here.
const MANUAL_DRIVER: &str = "hinic";
const DRIVER: &str = "nvme";

/// What a guest prints when it has used the device: its serial number comes by DMA, and an interrupt says so.
pub(crate) const USED: &str = "DEVICE manual";
const USE: &str = r#"
    state() { cat /sys/class/nvme/nvme0/state 2>/dev/null; }
    until [ "$(state)" = live ]; do sleep 0.1; done
    echo "DEVICE $(cat /sys/class/nvme/nvme0/serial)"
"#;
const AND_STAY: &str = "sleep 1000";

/// The options of a VM without devices.
pub(crate) const TRIAL: &str = "/var/lib/vms/trial.conf";
const TRIAL_OPTIONS: &str = "machine q35
cpu host
m 256M
kernel /var/lib/vms/blue/vmlinuz
initrd /var/lib/vms/blue/initrd
append console=ttyS0
serial none
";

/// Makes it, as it is after a boot.
pub(crate) fn prepare() -> Result<()> {
    static INSTALLED: Once = Once::new();
    let mut installed = Ok(());
    INSTALLED.call_once(|| installed = install());
    installed?;
    // The lab loads it at boot; where it is built in there is nothing to take out.
    let _unloaded = Command::new("rmmod").arg("vfio_pci").output()?;
    Ok(())
}

/// What a boot does not undo.
fn install() -> Result<()> {
    packaged::install()?;
    packaged::run("udevadm", &["control", "--reload"])?;
    packaged::run("systemctl", &["daemon-reload"])?;
    for (name, script) in [
        ("red", USE.to_owned()),
        ("blue", format!("{USE}{AND_STAY}")),
    ] {
        images(&Path::new("/var/lib/vms").join(name), &script)?;
    }
    Ok(fs::write(TRIAL, TRIAL_OPTIONS)?)
}

/// The files `vmlinuz` and `initrd` of a guest that runs `script`.
fn images(folder: &Path, script: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    let words = Guest::running(script).arguments(folder)?;
    let kernel = words.get(1).context("-kernel FILE")?;
    fs::copy(kernel, folder.join("vmlinuz"))?;
    Ok(())
}

/// A manual with the driver and the group of the device of this machine.
pub(crate) fn here(manual: &str) -> Result<String> {
    let group = HostDevice::at(DEVICE).group()?;
    let mut text = manual.replace(MANUAL_DRIVER, DRIVER);
    for start in ["group ", "group: ", "/dev/vfio/"] {
        text = text.replace(&format!("{start}12"), &format!("{start}{group}"));
    }
    Ok(text)
}
