//! Host devices that cannot be passed: they stay as they were.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::host_device::{HostDevice, NVME};
use harness::refusal::{self, Refusal};
use harness::scratch::Scratch;

const AT_ONCE: Duration = Duration::from_secs(1);
const NO_DEVICE: &str = "0000:00:1d.7";

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_refuses_a_device_that_its_host_driver_has() -> Result<()> {
    let scratch = Scratch::new()?;
    HostDevice::at(NVME).give_to_host()?;
    let refused = refusal::of_device_server(&[
        "vfio",
        "--host",
        NVME,
        "--socket",
        &scratch.file("nvme.sock"),
    ])?;
    refused
        .names(&[NVME, "nvme", "vfio-pci"])?
        .within(AT_ONCE)?;
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
    assert_eq!(scratch.names()?, Vec::<String>::new(), "no socket is left");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn vmm_refuses_a_device_that_its_host_driver_has() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    let kernel = std::env::var("LAB_GUEST_KERNEL")?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x3");
    let arguments = [
        "-machine", "q35", "-m", "512M", "-kernel", &kernel, "-serial", "none", "-device", &device,
    ];
    refusal::of_vmm(&arguments)?
        .names(&[NVME, "nvme", "vfio-pci"])?
        .within(AT_ONCE)?;
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_refuses_a_device_that_does_not_exist() -> Result<()> {
    let scratch = Scratch::new()?;
    let refused = refusal::of_device_server(&[
        "vfio",
        "--host",
        NO_DEVICE,
        "--socket",
        &scratch.file("none.sock"),
    ])?;
    refused.names(&[NO_DEVICE])?.within(AT_ONCE)?;
    assert_eq!(scratch.names()?, Vec::<String>::new(), "no socket is left");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn vmm_refuses_a_device_that_does_not_exist() -> Result<()> {
    let kernel = std::env::var("LAB_GUEST_KERNEL")?;
    let device = format!("vfio-pci,host={NO_DEVICE},id=net,bus=pcie.0,addr=0x3");
    let arguments = [
        "-machine", "q35", "-m", "512M", "-kernel", &kernel, "-serial", "none", "-device", &device,
    ];
    refusal::of_vmm(&arguments)?
        .names(&[NO_DEVICE])?
        .within(AT_ONCE)?;
    Ok(())
}

/// Puts a module parameter back when dropped.
struct Parameter {
    path: &'static str,
    before: String,
}

impl Parameter {
    fn set(path: &'static str, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path).with_context(|| path.to_owned())?;
        fs::write(path, value).with_context(|| format!("write {value} to {path}"))?;
        Ok(Self { path, before })
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.path, &self.before) {
            eprintln!("{} stays changed: {error}", self.path);
        }
    }
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn vmm_refuses_a_host_whose_devices_may_send_any_interrupt() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let _unsafe = Parameter::set(
        "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
        "Y",
    )?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x3");
    vmm_with(&["-device", &device])?.names(&[NVME, "allow_unsafe_interrupts", "write N"])?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn vmm_refuses_a_policy_that_names_no_real_device() -> Result<()> {
    let scratch = Scratch::new()?;
    let (rule, file) = (format!("allow-host={NO_DEVICE}"), scratch.file("policy"));
    fs::write(&file, format!("# for later\n{rule}\n"))?;
    for policy in [&rule, &file] {
        vmm_with(&["-device-policy", policy])?
            .names(&["-device-policy", NO_DEVICE])?
            .within(AT_ONCE)?;
    }
    Ok(())
}

fn vmm_with(arguments: &[&str]) -> Result<Refusal> {
    let kernel = std::env::var("LAB_GUEST_KERNEL")?;
    let machine = [
        "-machine", "q35", "-m", "512M", "-kernel", &kernel, "-serial", "none",
    ];
    refusal::of_vmm(&[&machine, arguments].concat())
}
