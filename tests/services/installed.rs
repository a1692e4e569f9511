//! A host with the package's files, two tenants, and what systemd says of their units.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::deadline::eventually;
use harness::guest::Guest;
use harness::host_device::{E1000E, HostDevice, NVME};
pub(crate) use harness::packaged::run;
use harness::packaged::{self, UNITS};

/// For a unit to become what it shall become: a device server may have to bind and reset its device.
pub(crate) const CHANGE: Duration = Duration::from_secs(90);

/// Who has which device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tenant {
    pub(crate) name: &'static str,
    pub(crate) device: &'static str,
}

pub(crate) const BLUE: Tenant = Tenant {
    name: "blue",
    device: NVME,
};
pub(crate) const GREEN: Tenant = Tenant {
    name: "green",
    device: E1000E,
};

/// The host. All units are stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct Host;

impl Host {
    /// Puts everything where the package would, with the two tenants' drop-ins.
    pub(crate) fn install() -> Result<Host> {
        packaged::install()?;
        let tenants = "/etc/sysusers-tenants.conf";
        fs::write(tenants, "g blue -\ng green -\n")?;
        run("systemd-sysusers", &[tenants])?;
        let host = Host;
        for tenant in [BLUE, GREEN] {
            tenant.settle()?;
        }
        run("udevadm", &["control", "--reload"])?;
        // As the package's postinst: the node may be there already.
        run(
            "udevadm",
            &[
                "trigger",
                "--action=add",
                "--subsystem-match=misc",
                "--sysname-match=iommu",
            ],
        )?;
        host.systemctl(&["daemon-reload"])?;
        host.systemctl(&["reset-failed"])?;
        Ok(host)
    }

    /// Runs systemctl, which must succeed; gives what it prints.
    pub(crate) fn systemctl(&self, words: &[&str]) -> Result<String> {
        run("systemctl", words).with_context(|| journal("bulkhead-*"))
    }

    /// Runs systemctl, which must fail.
    pub(crate) fn systemctl_fails(&self, words: &[&str]) -> Result<()> {
        let done = Command::new("systemctl").args(words).output()?;
        ensure!(!done.status.success(), "systemctl {words:?} should fail");
        Ok(())
    }

    pub(crate) fn property(&self, unit: &str, name: &str) -> Result<String> {
        let text = self.systemctl(&["show", "--value", "--property", name, unit])?;
        Ok(text.trim().to_owned())
    }

    /// Waits until a unit is in this state.
    pub(crate) fn becomes(&self, unit: &str, state: &str) -> Result<()> {
        let is = || (self.property(unit, "ActiveState").ok()? == state).then_some(());
        eventually("a unit's state", CHANGE, is).with_context(|| {
            let now = self.property(unit, "ActiveState");
            format!(
                "{unit} should be {state} and is {now:?}; {}",
                self.journal(unit)
            )
        })
    }

    pub(crate) fn is(&self, unit: &str, state: &str) -> Result<()> {
        let now = self.property(unit, "ActiveState")?;
        ensure!(
            now == state,
            "{unit} should be {state} and is {now}; {}",
            self.journal(unit)
        );
        Ok(())
    }

    /// What a unit logged last.
    pub(crate) fn journal(&self, unit: &str) -> String {
        journal(unit)
    }

    /// How many records of the journal have this field.
    pub(crate) fn records(&self, field: &str) -> Result<usize> {
        run("journalctl", &["--sync"])?;
        let text = run(
            "journalctl",
            &["--no-pager", "--quiet", "--output", "cat", field],
        )?;
        Ok(text.lines().count())
    }

    /// The user of a unit's main process.
    pub(crate) fn user(&self, unit: &str) -> Result<String> {
        let pid = self.property(unit, "MainPID")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context(unit.to_owned())?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        Ok(line.context("a user")?.trim().to_owned())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let all = [
            "stop",
            "bulkhead-vmm@*",
            "bulkhead-supervisor@*",
            "bulkhead-device-server@*",
        ];
        let _stopped = self.systemctl(&all);
    }
}

impl Tenant {
    pub(crate) fn server(self) -> String {
        format!("bulkhead-device-server@{}.service", self.device)
    }

    pub(crate) fn socket(self) -> String {
        format!("bulkhead-device-server@{}.socket", self.device)
    }

    pub(crate) fn socket_path(self) -> String {
        format!("/run/bulkhead/devices/{}.sock", self.device)
    }

    pub(crate) fn vm(self) -> String {
        format!("bulkhead-vmm@{}.service", self.name)
    }

    /// What an operator writes for a tenant (docs/services.md).
    fn settle(self) -> Result<()> {
        let Tenant { name, device } = self;
        let slice = format!("[Service]\nSlice=bulkhead-{name}.slice\n");
        drop_in(&self.socket(), &format!("[Socket]\nSocketGroup={name}\n"))?;
        drop_in(&self.server(), &slice)?;
        drop_in(&self.vm(), &format!("{slice}Group={name}\n"))?;
        let options = format!("DEVICE_OPTIONS=--allow-gid={name} --id={name}\n");
        fs::write(format!("/etc/bulkhead/devices/{device}.conf"), options)?;
        self.configure("vfio-user-pci,socket", &self.socket_path(), "")
    }

    /// Writes the VM's file. Its guest says what device it sees at 00:03.0, and a block of the disk if it has one.
    pub(crate) fn configure(self, device: &str, value: &str, more: &str) -> Result<()> {
        let script = r#"
            echo "VENDOR $(cat /sys/bus/pci/devices/0000:00:03.0/vendor)"
            [ ! -e /sys/bus/pci/drivers/nvme/0000:00:03.0 ] || { wait_for /dev/nvme0n1; echo "BLOCK $(block 99)"; }
            sleep 1000
        "#;
        let device = format!("device {device}={value},id=dev,bus=pcie.0,addr=0x3\n{more}");
        write_vm(self.name, script, &device)
    }

    /// What the guest printed.
    pub(crate) fn console(self) -> String {
        console(self.name)
    }

    pub(crate) fn wait_for_guest(self, line: &str) -> Result<()> {
        wait_for_guest(self.name, line)
    }

    /// Who may open the device's group.
    pub(crate) fn node_owner(self) -> Result<u32> {
        let group = HostDevice::at(self.device).group()?;
        Ok(fs::metadata(format!("/dev/vfio/{group}"))?.uid())
    }
}

/// Writes /etc/bulkhead/vms/NAME.conf.
pub(crate) fn write_vm(name: &str, script: &str, devices: &str) -> Result<()> {
    // Not in /tmp, of which a service has its own, nor in /run, which a reboot empties.
    let folder = PathBuf::from(format!("/var/lib/bulkhead-images/{name}"));
    fs::create_dir_all(&folder)?;
    let boot = Guest::running(script).arguments(&folder)?;
    fs::set_permissions(folder.join("initrd"), fs::Permissions::from_mode(0o644))?;
    let boot: Vec<String> = boot.chunks(2).map(|option| option.join(" ")).collect();
    let text = format!(
        "# {name}\nmachine q35\ncpu host\nm 256M\n{}\nserial file:/run/bulkhead-vm/{name}/console\n{devices}",
        boot.join("\n")
    );
    Ok(fs::write(format!("/etc/bulkhead/vms/{name}.conf"), text)?)
}

pub(crate) fn console(name: &str) -> String {
    fs::read_to_string(format!("/run/bulkhead-vm/{name}/console")).unwrap_or_default()
}

pub(crate) fn wait_for_guest(name: &str, line: &str) -> Result<()> {
    let said = || {
        console(name)
            .lines()
            .any(|said| said.starts_with(line))
            .then_some(())
    };
    eventually("a line of the guest", CHANGE, said).with_context(|| {
        let journal = journal("bulkhead-*");
        format!("{line:?} is not in {:?}; {journal}", console(name))
    })
}

fn journal(units: &str) -> String {
    let words = [
        "--no-pager",
        "--lines",
        "60",
        "--output",
        "cat",
        "--unit",
        units,
    ];
    run("journalctl", &words).unwrap_or_else(|error| error.to_string())
}

fn drop_in(unit: &str, text: &str) -> Result<()> {
    let folder = Path::new(UNITS).join(format!("{unit}.d"));
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join("tenant.conf"), text)?)
}
