//! A device whose interrupts are MSI: a SATA controller, which has no MSI-X, reset by its bus.
//!
//! Not the e1000e: QEMU's fails its own driver's MSI test, also where nothing is passed. Not pvscsi: QEMU's goes round the IOMMU.

use anyhow::Result;
use harness::guest::Guest;
use harness::host_device::HostDevice;
use harness::vm::Vm;

/// Behind the first root port of the lab machine (scripts/test-support/lab_sets.py).
const SATA: &str = "0000:01:00.0";
const READ_DISK: &str = r#"
    modprobe ahci
    modprobe sd_mod
    wait_for /dev/sda
    dd if=/dev/sda of=/dev/null bs=4096 count=100 iflag=direct 2>/dev/null || exit 1
    echo "MSI $(lspci -vv -s 3.0 | grep -c 'MSI: Enable+')"
    echo "KIND $(interrupt_kind ahci)"
    echo "INTERRUPTS $(interrupts ahci)"
"#;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_with_msi_interrupts_the_guest() -> Result<()> {
    HostDevice::at(SATA).give_to_vfio()?;
    let device = format!("vfio-pci,host={SATA},id=sata,bus=pcie.0,addr=0x03");
    let guest = Guest::running(READ_DISK).with_all_drivers();
    let report = Vm::start(&["-smp", "2", "-m", "256M", "-device", &device], &guest)?
        .finish()?
        .succeeded()?;
    assert_eq!(report.value("MSI")?, "1", "{}", report.output());
    assert_eq!(report.value("KIND")?, "PCI-MSI", "{}", report.output());
    assert!(report.number("INTERRUPTS")? >= 100, "{}", report.output());
    Ok(())
}
