//! Guest RAM in huge pages, and a device that reaches it there.

use std::fs;

use anyhow::{Context, Result};
use harness::deadline::{PROCESS, eventually};
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::pattern::record_in_hex;
use harness::vm::Vm;

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
const READ_BLOCK: &str = r#"
    wait_for /dev/nvme0n1
    echo "BLOCK $(block 123)"
    pause used
"#;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn guest_memory_in_huge_pages_is_used_by_the_device() -> Result<()> {
    fs::write(HUGE_PAGES, "128")?;
    let free_before = meminfo("HugePages_Free")?;
    assert_eq!(
        free_before, 128,
        "the lab machine has 256 MiB in huge pages"
    );
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    let memory = "memory-backend-memfd,id=ram,size=256M,hugetlb=on,hugetlbsize=2M";
    let arguments = ["-m", "256M", "-object", memory, "-device", &device];
    let mut vm = Vm::start(&arguments, &Guest::running(READ_BLOCK))?;
    vm.wait_for_mark("used")?;
    // All of it is pinned for the device, so all of it is taken.
    assert_eq!(meminfo("HugePages_Free")?, 0);
    vm.resume()?;
    let report = vm.finish()?.succeeded()?;
    assert_eq!(report.value("BLOCK")?, record_in_hex(123));
    eventually("the huge pages come back", PROCESS, || {
        (meminfo("HugePages_Free").ok()? == free_before).then_some(())
    })?;
    fs::write(HUGE_PAGES, "0")?;
    Ok(())
}

fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("no {name} in /proc/meminfo"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}
