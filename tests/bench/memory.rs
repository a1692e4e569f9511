//! What a VM takes beyond its guest's RAM: the PSS of the supervisor, the VMM and the device server.

use anyhow::Result;
use harness::guest::Guest;
use harness::host_device::NVME;
use harness::proc_files::{command_line, mappings};
use harness::vm::Vm;

use crate::figures::{Figures, Limit};

const MAX_MIB: f64 = 16.0;
const GUEST_RAM_BYTES: u64 = 256 << 20;

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    const TOTAL: &str = "memory of all processes beyond guest RAM (PSS)";
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    let guest = Guest::running(
        "wait_for /dev/nvme0n1\ndd if=/dev/nvme0n1 of=/dev/null bs=1M\npause running",
    );
    let mut vm = Vm::start(&["-smp", "2", "-m", "512M", "-device", &device], &guest)?;
    vm.wait_for_mark("running")?;
    let mut total = 0.0;
    let vmm = vm.vmm_pid()?;
    let servers = vm.device_server_pids()?;
    for pid in vm.all_pids()? {
        let name = match pid {
            _ if pid == vmm => "VMM".to_owned(),
            _ if servers.contains(&pid) => "device server".to_owned(),
            _ => format!(
                "supervisor ({})",
                command_line(pid).first().cloned().unwrap_or_default()
            ),
        };
        let mib = beyond_guest_ram_mib(pid)?;
        figures.add(&format!("PSS of {name}"), "MiB", mib);
        total += mib;
    }
    figures.add(TOTAL, "MiB", total);
    figures.limit(TOTAL, "MiB", Limit::Below(MAX_MIB));
    vm.resume()?;
    vm.finish()?.succeeded()?;
    Ok(())
}

fn beyond_guest_ram_mib(pid: u32) -> Result<f64> {
    let is_ram = |size: u64, memfd: bool| memfd && size >= GUEST_RAM_BYTES;
    let maps = mappings(pid)?;
    let kib: u64 = maps
        .iter()
        .filter(|map| !is_ram(map.size_bytes, map.is_shared_memfd()))
        .map(|map| map.pss_kib)
        .sum();
    Ok(f64::from(u32::try_from(kib)?) / 1024.0)
}
