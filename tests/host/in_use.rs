//! What the host or a device server uses is not taken away.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::deadline::{HOST_DRIVER, PROCESS, eventually};
use harness::device_server::DeviceServer;
use harness::host_device::{HostDevice, NVME};
use harness::process::Process;
use harness::scratch::Scratch;
use rustix::process::Signal;

use crate::operator::host;

const DISK: &str = "/dev/nvme0n1";
const VIRTIO_NIC: &str = "0000:00:06.0";

fn disk_of_the_host() -> Result<()> {
    if HostDevice::at(NVME).driver().as_deref() != Some("nvme") {
        HostDevice::at(NVME).give_to_host()?;
    }
    let is_there = || std::path::Path::new(DISK).exists().then_some(());
    eventually("the disk is there", HOST_DRIVER, is_there)
}

/// Runs a program of the lab that has to succeed.
fn run(words: &str) -> Result<()> {
    let mut split = words.split_whitespace();
    let program = split.next().context("a program")?;
    let output = Command::new(program).args(split).output();
    let output = output.with_context(|| format!("run {words}"))?;
    ensure!(output.status.success(), "{words}: {output:?}");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn mounted_file_system_keeps_the_disk() -> Result<()> {
    disk_of_the_host()?;
    run("mke2fs -F /dev/nvme0n1")?;
    run("mount -t ext2 /dev/nvme0n1 /mnt")?;
    let refused = host("bind 00:04.0")?;
    let listed = host("list")?.succeeded()?;
    let checked = host("check 00:04.0")?;
    run("umount /mnt")?;
    refused.refused(
        4,
        &[NVME, "nvme0n1 is mounted on /mnt", "unmount", "--force"],
    )?;
    assert!(
        listed.contains("in use: nvme0n1 is mounted on /mnt"),
        "{listed}"
    );
    assert_eq!(checked.status, Some(2), "{checked:?}");
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn file_system_mounted_in_another_namespace_keeps_the_disk() -> Result<()> {
    disk_of_the_host()?;
    run("mke2fs -F /dev/nvme0n1")?;
    let script = "mount -t ext2 /dev/nvme0n1 /mnt && echo mounted && exec cat";
    let mut container = Process::start(
        "container",
        Command::new("unshare").args(["-m", "sh", "-c", script]),
    )?;
    container.stdout().wait_for_line("mounted", PROCESS)?;
    let refused = host("bind 00:04.0")?;
    container.signal(Signal::KILL)?;
    container.wait(PROCESS)?;
    refused.refused(4, &[NVME, "the kernel has claimed nvme0n1"])?;
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn swap_keeps_the_disk() -> Result<()> {
    disk_of_the_host()?;
    run("mkswap /dev/nvme0n1")?;
    run("swapon /dev/nvme0n1")?;
    let refused = host("bind 00:04.0")?;
    run("swapoff /dev/nvme0n1")?;
    refused.refused(4, &[NVME, "swaps to nvme0n1", "swapoff"])?;
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("nvme"));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn served_device_is_not_given_back() -> Result<()> {
    disk_of_the_host()?;
    host(&format!("bind {NVME}"))?.succeeded()?;
    let scratch = Scratch::new()?;
    let server = DeviceServer::vfio(NVME, &scratch.file("nvme.sock"))?;
    let pid = server.pid().to_string();
    host(&format!("unbind {NVME}"))?.refused(4, &[NVME, &pid, "has it open"])?;
    let checked = host(&format!("check {NVME}"))?.text;
    assert!(
        checked.contains(&format!("(process {pid}) has it open")),
        "{checked}"
    );
    assert_eq!(HostDevice::at(NVME).driver().as_deref(), Some("vfio-pci"));
    assert!(server.stop()?.success());
    host(&format!("unbind {NVME}"))?.succeeded()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn default_route_keeps_the_nic_unless_forced() -> Result<()> {
    let interface = std::fs::read_dir(format!("/sys/bus/pci/devices/{VIRTIO_NIC}/virtio0/net"))
        .and_then(|mut found| found.next().transpose())?
        .context("the NIC has an interface")?;
    let name = interface.file_name().to_string_lossy().into_owned();
    run(&format!("ip address add 192.0.2.2/24 dev {name}"))?;
    run(&format!("ip link set {name} up"))?;
    run(&format!("ip route add default via 192.0.2.1 dev {name}"))?;
    let bind = format!("bind {VIRTIO_NIC}");
    host(&bind)?.refused(4, &[VIRTIO_NIC, "the default route goes through", &name])?;
    let driver = || HostDevice::at(VIRTIO_NIC).driver();
    assert_eq!(driver().as_deref(), Some("virtio-pci"));
    host(&format!("{bind} --force"))?.succeeded()?;
    assert_eq!(driver().as_deref(), Some("vfio-pci"));
    host(&format!("unbind {VIRTIO_NIC}"))?.succeeded()?;
    assert_eq!(driver().as_deref(), Some("virtio-pci"));
    Ok(())
}
