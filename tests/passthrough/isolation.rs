//! Who holds what while the guest uses the device, as /proc tells.

use anyhow::{Context, Result};
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::proc_files::{command_line, is_vfio, mappings, open_files};
use harness::vm::Vm;

const USE_THE_DISK: &str = r#"
    wait_for /dev/nvme0n1
    dd if=/dev/nvme0n1 of=/dev/null bs=64k count=32 iflag=direct 2>/dev/null
    pause running
"#;

fn running_vm(device_options: &str) -> Result<Vm> {
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03{device_options}");
    let vm = Vm::start(
        &["-m", "256M", "-device", &device],
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
