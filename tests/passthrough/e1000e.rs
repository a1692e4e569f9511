//! The e1000e NIC: the guest talks through it to the gateway of the lab's isolated network.

use anyhow::Result;
use harness::guest::Guest;
use harness::host_device::{E1000E, HostDevice};
use harness::vm::Vm;

const PING: &str = r#"
    wait_for /sys/class/net/eth0
    ip addr add 10.0.2.15/24 dev eth0
    ip link set eth0 up
    tries=0
    until ping -c 1 -W 1 10.0.2.2 >/tmp/ping 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 30 ] || { cat /tmp/ping; dmesg | tail -n 20; exit 1; }
    done
    ping -c 5 -i 0.1 -s 1400 10.0.2.2 | grep received
    echo "MAC $(cat /sys/class/net/eth0/address)"
    echo "KIND $(interrupt_kind eth0)"
    echo "INTERRUPTS $(interrupts eth0)"
"#;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn e1000e_exchanges_packets_with_msix() -> Result<()> {
    HostDevice::at(E1000E).give_to_vfio()?;
    let device = format!("vfio-pci,host={E1000E},id=net,bus=pcie.0,addr=0x03.0x0");
    let guest = Guest::running(PING).with_all_drivers();
    let report = Vm::start(&["-smp", "2", "-m", "256M", "-device", &device], &guest)?
        .finish()?
        .succeeded()?;
    assert!(
        report
            .output()
            .contains("5 packets received, 0% packet loss"),
        "{}",
        report.output()
    );
    assert_eq!(report.value("KIND")?, "PCI-MSI");
    assert!(report.number("INTERRUPTS")? >= 10, "{}", report.output());
    assert!(
        report.value("MAC")?.starts_with("52:54:00:"),
        "{}",
        report.output()
    );
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn e1000e_without_msi_exchanges_packets_with_intx() -> Result<()> {
    HostDevice::at(E1000E).give_to_vfio()?;
    let device = format!("vfio-pci,host={E1000E},id=net,bus=pcie.0,addr=0x03");
    let guest = Guest::running(PING).with_all_drivers().append("pci=nomsi");
    let report = Vm::start(&["-m", "256M", "-device", &device], &guest)?
        .finish()?
        .succeeded()?;
    assert!(
        report
            .output()
            .contains("5 packets received, 0% packet loss"),
        "{}",
        report.output()
    );
    assert_eq!(report.value("KIND")?, "IO-APIC");
    Ok(())
}
