//! A guest whose memory goes on above 4 GiB, and a device that reaches it there.

use anyhow::Result;
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::pattern::record_in_hex;
use harness::vm::Vm;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn guest_with_memory_above_4_gib_uses_the_device() -> Result<()> {
    // The page cache takes the highest memory first, so what it reads is above 4 GiB.
    const READ_INTO_HIGH_MEMORY: &str = r#"
        wait_for /dev/nvme0n1
        exec 3</dev/nvme0n1 # or the last close would empty the cache
        awk '/^MemTotal/ { print "MEMORY-KIB " $2 }' /proc/meminfo
        awk '/zone +Normal/ { normal = 1 } normal && /nr_zone_inactive_file/ { print "BEFORE " $2; exit }' /proc/zoneinfo
        dd if=/dev/nvme0n1 of=/dev/null bs=64k 2>/dev/null
        awk '/zone +Normal/ { normal = 1 } normal && /nr_zone_inactive_file/ { print "AFTER " $2; exit }' /proc/zoneinfo
        awk '/System RAM/ { print "RAM " $1 }' /proc/iomem
        echo "CACHED $(dd if=/dev/nvme0n1 bs=4096 skip=7000 count=1 2>/dev/null | hexdump -v -e '16/1 "%02x" "\n"' | sort -u)"
    "#;
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    let vm = Vm::start(
        &["-m", "3328M", "-device", &device],
        &Guest::running(READ_INTO_HIGH_MEMORY),
    )?;
    let report = vm.finish()?.succeeded()?;
    assert!(
        report.number("MEMORY-KIB")? > 3072 << 10,
        "{}",
        report.output()
    );
    let high = report
        .values("RAM")
        .into_iter()
        .filter(|range| range.starts_with("100000000-"))
        .count();
    assert_eq!(high, 1, "{}", report.output());
    assert!(
        report.number("AFTER")? >= report.number("BEFORE")? + 10_000,
        "{}",
        report.output()
    );
    assert_eq!(report.value("CACHED")?, record_in_hex(7000));
    Ok(())
}
