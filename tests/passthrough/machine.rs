//! The machine around the device: how many CPUs, which pages, and what a reboot does.

use anyhow::{Context, Result};
use harness::deadline::GUEST_RUN;
use harness::guest::{Guest, GuestReport};
use harness::host_device::{HostDevice, NVME};
use harness::pattern::record_in_hex;
use harness::proc_files::mappings;
use harness::vm::Vm;

const COUNT_CPUS: &str = r#"
    wait_for /dev/nvme0n1
    echo "CPUS $(nproc)"
    echo "BLOCK $(block 77)"
"#;

fn with_cpus(cpus: &str, guest: &Guest) -> Result<GuestReport> {
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    Vm::start(&["-smp", cpus, "-m", "256M", "-device", &device], guest)?
        .finish()?
        .succeeded()
}

/// Linux gives shared memory small pages by itself. Debian's setting is asked for here, since with another the test proves nothing.
#[test]
#[ignore = "runs in the lab: scripts/test"]
fn pinned_memory_is_in_huge_pages_without_a_word_of_the_administrator() -> Result<()> {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled")?;
    assert!(setting.contains("[never]"), "{setting}");
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    let guest = Guest::running("pause running");
    let mut vm = Vm::start(&["-m", "256M", "-device", &device], &guest)?;
    vm.wait_for_mark("running")?;
    let ram = mappings(vm.vmm_pid()?)?;
    let ram = ram.iter().find(|map| map.is_shared_memfd());
    let ram = ram.context("the VMM maps guest RAM")?;
    assert_eq!((ram.size_bytes, ram.huge_kib), (256 << 20, 256 << 10));
    vm.resume()?;
    vm.finish()?.succeeded()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn one_cpu_uses_the_device() -> Result<()> {
    let report = with_cpus("1", &Guest::running(COUNT_CPUS))?;
    assert_eq!(report.number("CPUS")?, 1);
    assert_eq!(report.value("BLOCK")?, record_in_hex(77));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn two_cpus_use_the_device() -> Result<()> {
    let report = with_cpus("2", &Guest::running(COUNT_CPUS))?;
    assert_eq!(report.number("CPUS")?, 2);
    assert_eq!(report.value("BLOCK")?, record_in_hex(77));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn four_cpus_use_the_device() -> Result<()> {
    let report = with_cpus("4", &Guest::running(COUNT_CPUS).with_plain_boot())?;
    assert_eq!(report.number("CPUS")?, 4);
    assert_eq!(report.value("BLOCK")?, record_in_hex(77));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn bzimage_uses_the_device() -> Result<()> {
    let report = with_cpus(
        "2",
        &Guest::running(COUNT_CPUS).as_bzimage().with_plain_boot(),
    )?;
    assert_eq!(report.value("BLOCK")?, record_in_hex(77));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn reboot_of_guest_keeps_the_device_working() -> Result<()> {
    // The disk remembers that the guest ran once already.
    const REBOOT_ONCE: &str = r#"
        wait_for /dev/nvme0n1
        word=$(dd if=/dev/nvme0n1 bs=4096 skip=8200 count=1 iflag=direct 2>/dev/null | head -c 8)
        if [ "$word" = REBOOTED ]; then
            echo "SECOND-BOOT $(block 42)"
            echo "INTERRUPTS $(interrupts nvme)"
        else
            echo "FIRST-BOOT $word $(block 41)"
            printf REBOOTED | dd of=/dev/nvme0n1 bs=4096 seek=8200 conv=sync oflag=direct 2>/dev/null
            reboot -f
            sleep 60
        fi
    "#;
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    let vm = Vm::start_that_reboots(
        &["-smp", "2", "-m", "256M", "-device", &device],
        &Guest::running(REBOOT_ONCE),
    )?;
    let report = vm.finish()?.succeeded()?;
    assert_eq!(
        report.value("FIRST-BOOT")?,
        format!("BULKHEAD {}", record_in_hex(41))
    );
    assert_eq!(report.value("SECOND-BOOT")?, record_in_hex(42));
    assert!(report.number("INTERRUPTS")? > 5, "{}", report.output());
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn triple_fault_of_guest_is_named_with_its_registers() -> Result<()> {
    // With reboot=triple Linux reboots by an empty interrupt table and a breakpoint.
    let guest = Guest::running("reboot -f").append("reboot=triple");
    let mut vm = Vm::start_that_reboots(&["-m", "256M"], &guest)?;
    let status = vm.process().wait(GUEST_RUN)?;
    let log = vm.log();
    assert_eq!(status.code(), Some(1), "{log}");
    for word in ["triple fault", "rip=", "cr3="] {
        assert!(log.to_lowercase().contains(word), "{word} is not in {log}");
    }
    Ok(())
}
