//! Host devices that cannot be passed: they stay as they were.

use std::time::Duration;

use anyhow::Result;
use harness::host_device::{HostDevice, NVME};
use harness::refusal;
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
