//! Kernels, memory and /dev/kvm that a VM cannot have. In the lab, where a VM could run.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::host_device::HostDevice;
use harness::scratch::Scratch;
use harness::{proc_files, programs, refusal};

const AT_ONCE: Duration = Duration::from_secs(1);

fn guest_kernel() -> Result<String> {
    Ok(std::env::var("LAB_GUEST_KERNEL")?)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn missing_kernel_is_refused() -> Result<()> {
    let arguments = [
        "-machine",
        "q35",
        "-m",
        "512M",
        "-kernel",
        "/nonexistent/vmlinuz",
        "-serial",
        "none",
    ];
    refusal::of_vmm(&arguments)?
        .names(&["/nonexistent/vmlinuz"])?
        .within(AT_ONCE)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn missing_initrd_is_refused() -> Result<()> {
    let kernel = guest_kernel()?;
    let arguments = [
        "-machine",
        "q35",
        "-m",
        "512M",
        "-kernel",
        &kernel,
        "-initrd",
        "/nonexistent/initrd",
        "-serial",
        "none",
    ];
    refusal::of_vmm(&arguments)?
        .names(&["/nonexistent/initrd"])?
        .within(AT_ONCE)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn truncated_kernel_is_refused() -> Result<()> {
    let scratch = Scratch::new()?;
    let truncated = scratch.file("vmlinuz");
    fs::write(&truncated, &fs::read(guest_kernel()?)?[..100_000])?;
    let arguments = [
        "-machine", "q35", "-m", "512M", "-kernel", &truncated, "-serial", "none",
    ];
    refusal::of_vmm(&arguments)?
        .names(&[&truncated])?
        .within(AT_ONCE)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn kernel_that_is_text_is_refused() -> Result<()> {
    let scratch = Scratch::new()?;
    let text = scratch.file("vmlinuz");
    fs::write(&text, "no kernel\n".repeat(1000))?;
    let arguments = [
        "-machine", "q35", "-m", "512M", "-kernel", &text, "-serial", "none",
    ];
    refusal::of_vmm(&arguments)?
        .names(&[&text])?
        .within(AT_ONCE)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn memory_that_does_not_fit_is_refused() -> Result<()> {
    let kernel = guest_kernel()?;
    let arguments = [
        "-machine",
        "q35",
        "-m",
        "512G",
        "-mem-prealloc",
        "-kernel",
        &kernel,
        "-serial",
        "none",
    ];
    refusal::of_vmm(&arguments)?
        .names(&["memory"])?
        .within(AT_ONCE)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn memory_that_others_use_is_refused_to_a_host_device() -> Result<()> {
    let kernel = guest_kernel()?;
    let total_mib = proc_files::host_memory_kib("MemTotal")? >> 10;
    let free_mib = proc_files::host_memory_kib("MemAvailable")? >> 10;
    ensure!(free_mib < total_mib, "all of {total_mib} MiB are free");
    HostDevice::at("0000:00:04.0").give_to_vfio()?;
    let memory = format!("{total_mib}M");
    let device = "vfio-pci,host=0000:00:04.0,id=nvme,bus=pcie.0,addr=0x3";
    let arguments = [
        "-machine", "q35", "-m", &memory, "-kernel", &kernel, "-serial", "none", "-device", device,
    ];
    refusal::of_vmm(&arguments)?
        .names(&["pins all of it", "give less"])?
        .within(AT_ONCE)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn memory_too_small_for_the_kernel_is_refused() -> Result<()> {
    let kernel = guest_kernel()?;
    let arguments = [
        "-machine", "q35", "-m", "32M", "-kernel", &kernel, "-serial", "none",
    ];
    refusal::of_vmm(&arguments)?
        .names(&["-m"])?
        .within(AT_ONCE)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn kvm_without_permission_is_refused() -> Result<()> {
    const NOBODY: u32 = 65534;
    fs::set_permissions("/dev/kvm", Permissions::from_mode(0o600))?;
    let kernel = guest_kernel()?;
    let mut command = Command::new(programs::find(programs::VMM)?);
    command
        .args([
            "-machine", "q35", "-m", "512M", "-kernel", &kernel, "-serial", "none",
        ])
        .uid(NOBODY)
        .gid(NOBODY);
    refusal::of(&mut command)?
        .names(&["/dev/kvm"])?
        .within(AT_ONCE)?;
    Ok(())
}
