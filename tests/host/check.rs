//! What `host check` and `host list` say of the lab machine.

use anyhow::{Context, Result};
use harness::host_device::{E1000E, HostDevice, NVME};
use serde_json::Value;

use crate::group::SERIAL_A;
use crate::operator::host;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn lab_machine_is_ok() -> Result<()> {
    let said = host("check")?.succeeded()?;
    for line in [
        "ok       iommu: on (dmar0), ",
        "ok       interrupt remapping: on\n",
        "ok       kvm: ",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_is_described_as_lspci_does() -> Result<()> {
    HostDevice::at(NVME).give_to_host()?;
    let before = host("check 00:04.0")?;
    assert_eq!(before.status, Some(1), "{before:?}");
    for line in [
        "warning  driver: nvme, not vfio-pci yet\n",
        "-> bulkhead-device-server host bind 0000:00:04.0\n",
        "ok       reset: flr\n",
        "ok       bars: 0: 16 KiB memory\n",
        "ok       interrupts: INTx, MSI-X 65\n",
    ] {
        assert!(before.text.contains(line), "{line}: {before:?}");
    }
    host("bind 00:04.0")?.succeeded()?;
    let after = host("check 00:04.0")?.succeeded()?;
    host("unbind 00:04.0")?.succeeded()?;
    assert!(after.contains("ok       driver: vfio-pci\n"), "{after}");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_without_reset_is_a_warning_in_json() -> Result<()> {
    let answer = host(&format!("check --format json {SERIAL_A}"))?;
    let value: Value = serde_json::from_str(&answer.text)?;
    assert_eq!(value["status"], "warning");
    let findings = value["findings"].as_array().context("a list")?;
    let reset = findings
        .iter()
        .find(|finding| finding["subject"] == "reset");
    let reset = reset.context("a finding about reset")?;
    assert_eq!(reset["level"], "warning");
    assert!(
        reset["advice"].to_string().contains("allow-no-reset"),
        "{reset}"
    );
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn list_names_devices_drivers_and_groups() -> Result<()> {
    let text = host("list")?.succeeded()?;
    let line = text.lines().find(|line| line.starts_with(E1000E));
    let line = line.context("the NIC is listed")?;
    for word in [
        "8086:10d3",
        "Ethernet controller",
        "Intel Corporation 82574L Gigabit Network Connection",
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
    let value: Value = serde_json::from_str(&host("list --format json")?.succeeded()?)?;
    let rows = value.as_array().context("a list")?;
    let nic = rows.iter().find(|row| row["address"] == E1000E);
    let nic = nic.context("the NIC is listed")?;
    assert_eq!(nic["group"].to_string(), HostDevice::at(E1000E).group()?);
    assert_eq!(nic["driver"], Value::Null);
    Ok(())
}
