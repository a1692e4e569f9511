//! The NVMe disk: what the guest reads and writes, and how its interrupts come.

use anyhow::Result;
use harness::device_server::DeviceServer;
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::pattern::{self, FIRST_WRITABLE, record_in_hex};
use harness::scratch::Scratch;
use harness::vm::Vm;

const READ_PATTERN: &str = r#"
    wait_for /dev/nvme0n1
    echo "FIRST $(block 0)"
    echo "MIDDLE $(block 5000)"
    echo "LAST $(block 8191)"
    echo "KIND $(interrupt_kind nvme)"
    echo "INTERRUPTS $(interrupts nvme)"
"#;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn nvme_of_supervisor_is_read_with_msix() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03.0x0");
    let vm = Vm::start(
        &["-smp", "2", "-m", "256M", "-device", &device],
        &Guest::running(READ_PATTERN),
    )?;
    let report = vm.finish()?.succeeded()?;
    assert_eq!(report.value("FIRST")?, record_in_hex(0));
    assert_eq!(report.value("MIDDLE")?, record_in_hex(5000));
    assert_eq!(report.value("LAST")?, record_in_hex(8191));
    assert_eq!(report.value("KIND")?, "PCI-MSI");
    assert!(report.number("INTERRUPTS")? > 10, "{}", report.output());
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn nvme_of_separate_server_is_read_with_msix() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let scratch = Scratch::new()?;
    let socket = scratch.file("nvme.sock");
    let _server = DeviceServer::vfio(NVME, &socket)?;
    let device = format!("vfio-user-pci,socket={socket},id=nvme,bus=pcie.0,addr=0x03");
    let vm = Vm::start(
        &["-smp", "2", "-m", "256M", "-device", &device],
        &Guest::running(READ_PATTERN),
    )?;
    let report = vm.finish()?.succeeded()?;
    assert_eq!(report.value("MIDDLE")?, record_in_hex(5000));
    assert_eq!(report.value("KIND")?, "PCI-MSI");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn nvme_without_msi_is_read_with_intx() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    let guest = Guest::running(READ_PATTERN).append("pci=nomsi");
    let report = Vm::start(&["-smp", "2", "-m", "256M", "-device", &device], &guest)?
        .finish()?
        .succeeded()?;
    assert_eq!(report.value("MIDDLE")?, record_in_hex(5000));
    assert_eq!(report.value("KIND")?, "IO-APIC");
    assert!(report.number("INTERRUPTS")? > 10, "{}", report.output());
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn nvme_behind_root_port_is_read() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let port = "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1";
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.1,addr=0x0");
    let vm = Vm::start(
        &["-m", "256M", "-device", port, "-device", &device],
        &Guest::running(READ_PATTERN),
    )?;
    let report = vm.finish()?.succeeded()?;
    assert_eq!(report.value("MIDDLE")?, record_in_hex(5000));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn nvme_write_of_guest_is_seen_by_host() -> Result<()> {
    const COPY_16_BLOCKS: &str = r#"
        wait_for /dev/nvme0n1
        dd if=/dev/nvme0n1 of=/dev/nvme0n1 bs=4096 skip=100 seek=8300 count=16 iflag=direct oflag=direct conv=notrunc
    "#;
    let (from, to) = (100, FIRST_WRITABLE + 108);
    let nvme = HostDevice::at(NVME);
    assert_eq!(
        nvme.read_block_as_host(to)?,
        pattern::block(to),
        "the lab's disk is new"
    );
    nvme.give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    Vm::start(
        &["-m", "256M", "-device", &device],
        &Guest::running(COPY_16_BLOCKS),
    )?
    .finish()?
    .succeeded()?;
    nvme.give_to_host()?;
    for number in 0..16 {
        assert_eq!(
            nvme.read_block_as_host(to + number)?,
            pattern::block(from + number),
            "block {number} of the copy"
        );
    }
    assert_eq!(
        nvme.read_block_as_host(to + 16)?,
        pattern::block(to + 16),
        "the block after the copy"
    );
    Ok(())
}
