//! Who holds what while the guest uses the device, as /proc tells.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::proc_files::{command_line, is_vfio, mappings, open_files, status_of_threads};
use harness::vm::Vm;

/// What a server holds with either way to the IOMMU. The device of a group is no file of a folder.
const TYPE1: [&str; 2] = ["/dev/vfio/", "/dev/vfio/vfio"];
const IOMMUFD: [&str; 2] = ["/dev/iommu", "/dev/vfio/devices/vfio"];

const USE_THE_DISK: &str = r#"
    wait_for /dev/nvme0n1
    dd if=/dev/nvme0n1 of=/dev/null bs=64k count=32 iflag=direct 2>/dev/null
    pause running
"#;

fn running_vm(device_options: &str) -> Result<Vm> {
    vm_with(&[], device_options)
}

/// A VM that has the NVMe, in a guest that has read it and waits.
pub(crate) fn vm_with(options: &[&str], device_options: &str) -> Result<Vm> {
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03{device_options}");
    let vm = Vm::start(
        &[&["-m", "256M", "-device", &device], options].concat(),
        &Guest::running(USE_THE_DISK),
    )?;
    vm.wait_for_mark("running")?;
    Ok(vm)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn vmm_and_supervisor_hold_no_vfio_fd_and_device_server_does() -> Result<()> {
    let mut vm = running_vm("")?;
    let servers = vm.device_server_pids()?;
    assert_eq!(servers.len(), 1, "one device server for one device");
    for pid in vm.all_pids()? {
        let files = open_files(pid)?;
        let holds = files.iter().any(|file| is_vfio(file));
        assert_eq!(
            holds,
            servers.contains(&pid),
            "process {pid} has open: {files:#?}"
        );
    }
    vm.resume()?;
    vm.finish()?.succeeded()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_server_and_supervisor_hold_no_guest_memory() -> Result<()> {
    let mut vm = running_vm("")?;
    let vmm = vm.vmm_pid()?;
    let ram = mappings(vmm)?
        .into_iter()
        .find(|mapping| mapping.is_shared_memfd() && mapping.size_bytes >= 256 << 20);
    let ram = ram.context("the VMM maps guest RAM")?;
    for pid in vm.all_pids()?.into_iter().filter(|&pid| pid != vmm) {
        let maps = mappings(pid)?;
        let of_ram: Vec<_> = maps
            .iter()
            .filter(|map| map.is_shared_memfd() && map.inode == ram.inode)
            .collect();
        assert!(
            of_ram.is_empty(),
            "process {pid} maps guest RAM: {of_ram:#?}"
        );
        let files = open_files(pid)?;
        let ram_name = ram.name.trim_end_matches(" (deleted)");
        assert!(
            !files.iter().any(|file| file.starts_with(ram_name)),
            "process {pid} has open: {files:#?}"
        );
    }
    vm.resume()?;
    vm.finish()?.succeeded()?;
    Ok(())
}

/// Of every thread, since a filter is a thread's: the VMM's differ from each other, and one without would be the way out.
#[test]
#[ignore = "runs in the lab: scripts/test"]
fn vmm_and_device_server_hold_no_power_over_the_host() -> Result<()> {
    let mut vm = running_vm("")?;
    let vmm = vm.vmm_pid()?;
    let confined = [vec![vmm], vm.device_server_pids()?].concat();
    let mut users = BTreeSet::new();
    for &pid in &confined {
        for (row, expected) in [
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("Groups", ""),
        ] {
            assert_eq!(
                status_of_threads(pid, row)?,
                [expected],
                "{row} of process {pid}"
            );
        }
        for kind in ["mnt", "net", "ipc", "uts", "cgroup", "pid"] {
            assert_ne!(
                fs::read_link(format!("/proc/{pid}/ns/{kind}"))?,
                fs::read_link(format!("/proc/self/ns/{kind}"))?,
                "{kind} namespace of process {pid}"
            );
        }
        assert_eq!(fs::read_dir(format!("/proc/{pid}/root/"))?.count(), 0);
        let user = status_of_threads(pid, "Uid")?.concat();
        assert!(!user.split_whitespace().any(|uid| uid == "0"), "{user}");
        users.insert(user);
    }
    assert_eq!(users.len(), 2, "one user each: {users:?}");
    for supervisor in vm
        .all_pids()?
        .into_iter()
        .filter(|pid| !confined.contains(pid))
    {
        assert_eq!(status_of_threads(supervisor, "NoNewPrivs")?, ["1"]);
        assert_eq!(status_of_threads(supervisor, "Seccomp")?, ["2"]);
    }
    vm.resume()?;
    vm.finish()?.succeeded()?;
    Ok(())
}

/// What a server with this option sends is counted in `fast_path`.
#[test]
#[ignore = "runs in the lab: scripts/test"]
fn bar_mmap_off_reaches_the_device_server() -> Result<()> {
    for (device_options, expected) in [("", false), (",bar-mmap=off", true)] {
        let mut vm = running_vm(device_options)?;
        let server = command_line(vm.device_server_pids()?[0]);
        let told = server
            .windows(2)
            .any(|words| words == ["--bar-mmap", "off"]);
        assert_eq!(told, expected, "{device_options}: {server:?}");
        vm.resume()?;
        vm.finish()?.succeeded()?;
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_server_takes_iommufd_where_it_maps_files_unless_told_type1() -> Result<()> {
    let kernel = std::env::var("LAB_KERNEL")?;
    let best = if kernel == "iommufd" { IOMMUFD } else { TYPE1 };
    for (option, expected) in [("auto", best), ("type1", TYPE1)] {
        let mut vm = vm_with(&["-iommu-backend", option], "")?;
        let server = vm.device_server_pids()?[0];
        let nodes: BTreeSet<String> = open_files(server)?
            .into_iter()
            .filter(|file| file.starts_with("/dev/"))
            .map(|file| file.trim_end_matches(char::is_numeric).to_owned())
            .filter(|file| file != "/dev/null")
            .collect();
        assert_eq!(
            nodes,
            BTreeSet::from(expected.map(str::to_owned)),
            "{option}"
        );
        vm.resume()?;
        vm.finish()?.succeeded()?;
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn bars_are_trapped_on_a_cpu_that_leaks_before_linux_6_17_unless_forced() -> Result<()> {
    let old = std::env::var("LAB_KERNEL")?.starts_with("6.");
    let _cpu = AffectedCpu::pretend()?;
    for (device_options, trapped) in [("", old), (",bar-mmap=force", false)] {
        let mut vm = running_vm(device_options)?;
        let server = command_line(vm.device_server_pids()?[0]);
        let told = server
            .windows(2)
            .any(|words| words == ["--bar-mmap", "off"]);
        assert_eq!(told, trapped, "{device_options}: {server:?}");
        vm.resume()?;
        vm.finish()?.succeeded()?;
    }
    Ok(())
}

/// Has the kernel say that the CPU has the flaw MMIO Stale Data, until it is dropped.
struct AffectedCpu;

impl AffectedCpu {
    const FILE: &str = "/sys/devices/system/cpu/vulnerabilities/mmio_stale_data";

    fn pretend() -> Result<AffectedCpu> {
        let says = "/tmp/mmio_stale_data";
        fs::write(says, "Mitigation: Clear CPU buffers; SMT vulnerable\n")?;
        let mount = Command::new("mount")
            .args(["-o", "bind", says, AffectedCpu::FILE])
            .status()?;
        ensure!(mount.success(), "mount: {mount}");
        Ok(AffectedCpu)
    }
}

impl Drop for AffectedCpu {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(AffectedCpu::FILE).status();
    }
}
