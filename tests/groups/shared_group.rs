//! Two devices of one IOMMU group: one server serves both, nothing less than the whole group is accepted.

use std::time::Duration;

use anyhow::Result;
use harness::device_server::DeviceServer;
use harness::guest::Guest;
use harness::host_device::HostDevice;
use harness::refusal;
use harness::scratch::Scratch;
use harness::vm::Vm;

const SERIAL_A: &str = "0000:00:0a.0";
const SERIAL_B: &str = "0000:00:0a.1";

/// Sends a line into each card's first port and reads it from the other's.
const TALK_BOTH_WAYS: &str = r#"
    port_of() {
        for tty in /sys/bus/pci/devices/$1/tty/*; do
            [ -e "$tty" ] && basename "$tty" && return
        done
    }
    wait_for /sys/bus/pci/devices/$A/tty
    wait_for /sys/bus/pci/devices/$B/tty
    a=/dev/$(port_of $A) b=/dev/$(port_of $B)
    stty -F $a raw -echo 115200
    stty -F $b raw -echo 115200
    head -n 1 <$b >/tmp/b & sleep 0.5; echo from-a >$a; wait $!
    head -n 1 <$a >/tmp/a & sleep 0.5; echo from-b >$b; wait $!
    echo "B-READ $(cat /tmp/b)"
    echo "A-READ $(cat /tmp/a)"
"#;

fn give_group_to_vfio() -> Result<()> {
    HostDevice::at(SERIAL_A).give_to_vfio()?;
    HostDevice::at(SERIAL_B).give_to_vfio()?;
    assert_eq!(
        HostDevice::at(SERIAL_A).group()?,
        HostDevice::at(SERIAL_B).group()?,
        "the lab gives them one group"
    );
    Ok(())
}

fn guest_with_cards_at(a: &str, b: &str) -> Guest {
    Guest::running(&format!("A={a} B={b}\n{TALK_BOTH_WAYS}")).with_all_drivers()
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn one_server_serves_two_devices_of_a_group() -> Result<()> {
    give_group_to_vfio()?;
    let scratch = Scratch::new()?;
    let (a, b) = (scratch.file("a.sock"), scratch.file("b.sock"));
    let arguments = [
        "vfio",
        "--allow-no-reset",
        "--host",
        SERIAL_A,
        "--socket",
        &a,
        "--host",
        SERIAL_B,
        "--socket",
        &b,
    ];
    let server = DeviceServer::start(&arguments)?;
    let a = format!("vfio-user-pci,socket={a},id=a,bus=pcie.0,addr=0x03,allow-no-reset=on");
    let b = format!("vfio-user-pci,socket={b},id=b,bus=pcie.0,addr=0x04,allow-no-reset=on");
    let guest = guest_with_cards_at("0000:00:03.0", "0000:00:04.0");
    let report = Vm::start(&["-m", "256M", "-device", &a, "-device", &b], &guest)?
        .finish()?
        .succeeded()?;
    assert_eq!(report.value("B-READ")?, "from-a");
    assert_eq!(report.value("A-READ")?, "from-b");
    assert!(server.stop()?.success());
    assert_eq!(
        scratch.names()?,
        Vec::<String>::new(),
        "both sockets are gone"
    );
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn supervisor_starts_one_server_for_a_group() -> Result<()> {
    give_group_to_vfio()?;
    let a = format!(
        "vfio-pci,host={SERIAL_A},id=a,bus=pcie.0,addr=0x03.0x0,multifunction=on,allow-no-reset=on"
    );
    let b = format!("vfio-pci,host={SERIAL_B},id=b,bus=pcie.0,addr=0x03.0x1,allow-no-reset=on");
    let guest = guest_with_cards_at("0000:00:03.0", "0000:00:03.1");
    let vm = Vm::start(&["-m", "256M", "-device", &a, "-device", &b], &guest)?;
    vm.wait_for_line("GUEST-READY")?;
    assert_eq!(
        vm.device_server_pids()?.len(),
        1,
        "one server for the group"
    );
    let report = vm.finish()?.succeeded()?;
    assert_eq!(report.value("B-READ")?, "from-a");
    assert_eq!(report.value("A-READ")?, "from-b");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn second_server_on_a_served_group_is_refused_by_name() -> Result<()> {
    give_group_to_vfio()?;
    let scratch = Scratch::new()?;
    let (a, b) = (scratch.file("a.sock"), scratch.file("b.sock"));
    let server = DeviceServer::start(&[
        "vfio",
        "--allow-no-reset",
        "--host",
        SERIAL_A,
        "--socket",
        &a,
    ])?;
    let refused = refusal::of_device_server(&[
        "vfio",
        "--allow-no-reset",
        "--host",
        SERIAL_B,
        "--socket",
        &b,
    ])?;
    refused
        .names(&["served already", &server.pid().to_string()])?
        .within(Duration::from_secs(1))?;
    assert_eq!(
        scratch.names()?,
        ["a.sock"],
        "the refused server leaves no socket"
    );
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_without_reset_is_refused() -> Result<()> {
    give_group_to_vfio()?;
    let scratch = Scratch::new()?;
    let refused = refusal::of_device_server(&[
        "vfio",
        "--host",
        SERIAL_A,
        "--socket",
        &scratch.file("a.sock"),
    ])?;
    refused
        .names(&[SERIAL_A, "reset", "--allow-no-reset"])?
        .within(Duration::from_secs(1))?;
    assert_eq!(scratch.names()?, Vec::<String>::new(), "no socket is left");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn group_that_is_not_viable_is_refused_with_the_blocking_device() -> Result<()> {
    let scratch = Scratch::new()?;
    HostDevice::at(SERIAL_A).give_to_vfio()?;
    HostDevice::at(SERIAL_B).give_to_host()?;
    let host_driver = HostDevice::at(SERIAL_B).driver();
    assert!(
        host_driver.is_some(),
        "the lab's kernel has a driver for the serial card"
    );
    let refused = refusal::of_device_server(&[
        "vfio",
        "--allow-no-reset",
        "--host",
        SERIAL_A,
        "--socket",
        &scratch.file("a.sock"),
    ])?;
    refused
        .names(&["not viable", SERIAL_B, "vfio-pci"])?
        .within(Duration::from_secs(1))?;
    assert_eq!(
        HostDevice::at(SERIAL_B).driver(),
        host_driver,
        "the blocking device is as it was"
    );
    assert_eq!(
        HostDevice::at(SERIAL_A).driver().as_deref(),
        Some("vfio-pci")
    );
    assert_eq!(scratch.names()?, Vec::<String>::new(), "no socket is left");
    Ok(())
}
