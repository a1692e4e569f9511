//! Who of the VM's processes has the device, KVM and the guest's memory, as /proc tells.

use anyhow::Result;
use harness::proc_files::{is_spare, is_vfio, mappings, open_files};
use harness::vm::Vm;

const GUEST_RAM_BYTES: u64 = 256 << 20;

/// One row for each process.
pub(crate) fn table(vm: &Vm) -> Result<String> {
    let vmm = vm.vmm_pid()?;
    let servers = vm.device_server_pids()?;
    let mut text = format!(
        "    {:<16} {:>7} {:>9} {:>9} {:>12} {:>14}\n",
        "process", "open fds", "VFIO fds", "KVM fds", "BAR mappings", "guest RAM"
    );
    for pid in vm.all_pids()? {
        let role = if pid == vmm {
            "VMM"
        } else if servers.contains(&pid) {
            "device server"
        } else if is_spare(pid) {
            "spare server"
        } else {
            "supervisor"
        };
        let files = open_files(pid)?;
        let maps = mappings(pid)?;
        let vfio = files.iter().filter(|file| is_vfio(file)).count();
        let kvm = files.iter().filter(|file| file.contains("kvm")).count();
        let bars = maps.iter().filter(|map| map.name.contains("vfio")).count();
        let ram = maps
            .iter()
            .any(|map| map.is_shared_memfd() && map.size_bytes >= GUEST_RAM_BYTES);
        let ram = if ram { "mapped" } else { "not mapped" };
        text.push_str(&format!(
            "    {role:<16} {:>7} {vfio:>9} {kvm:>9} {bars:>12} {ram:>14}\n",
            files.len()
        ));
    }
    Ok(text)
}
