use super::check;
use crate::config::DeviceConfig;

const PORT: &str = "pcie-root-port,id=pcie.1,port=1,bus=pcie.0,addr=1";

fn refused(lines: &[&str]) -> String {
    result(lines).unwrap_err()
}

fn result(lines: &[&str]) -> Result<(), String> {
    let devices: Vec<_> = lines
        .iter()
        .map(|line| DeviceConfig::parse(line).unwrap())
        .collect();
    check(&devices).map_err(|error| error.to_string())
}

#[test]
fn devices_on_the_root_bus_and_behind_a_port_fit() {
    let disk = "vfio-pci,host=1a:00.0,id=disk,bus=pcie.1,addr=0";
    let net = "vfio-user-pci,socket=/run/x,id=net,bus=pcie.0,addr=3";
    // The port may come after what sits behind it.
    assert_eq!(result(&[disk, PORT, net]), Ok(()));
}

#[test]
fn id_given_twice_is_refused() {
    let other = "vfio-pci,host=1a:00.0,id=pcie.1,bus=pcie.0,addr=4";
    assert!(refused(&[PORT, other]).contains("-device pcie.1: this id is taken"));
    let root = "vfio-pci,host=1a:00.0,id=pcie.0,bus=pcie.0,addr=4";
    assert!(refused(&[root]).contains("is the root bus"));
}

#[test]
fn unknown_bus_is_refused_with_the_buses_there_are() {
    let device = "vfio-pci,host=1a:00.0,id=net,bus=pcie.7,addr=0";
    assert!(
        refused(&[PORT, device]).contains("there is no bus \"pcie.7\"; there are pcie.0, pcie.1")
    );
}

#[test]
fn occupied_slot_is_refused_with_the_device_in_it() {
    let a = "vfio-pci,host=1a:00.0,id=a,bus=pcie.0,addr=1";
    assert!(
        refused(&[PORT, a])
            .contains("slot 0x1 function 0 of bus \"pcie.0\" is already taken by 'pcie.1'")
    );
}

#[test]
fn host_bridge_slot_and_other_slots_of_a_port_are_refused() {
    assert!(
        refused(&["vfio-pci,host=1a:00.0,id=a,bus=pcie.0,addr=0"])
            .contains("holds the host bridge")
    );
    assert!(
        refused(&[PORT, "vfio-pci,host=1a:00.0,id=a,bus=pcie.1,addr=1"])
            .contains("a root port has one slot, 0x0")
    );
}

#[test]
fn root_port_behind_a_root_port_is_refused() {
    assert!(
        refused(&[PORT, "pcie-root-port,id=p2,bus=pcie.1,addr=0"])
            .contains("not behind another port")
    );
}

#[test]
fn same_host_device_or_socket_twice_is_refused() {
    let host = [
        "vfio-pci,host=1a:00.0,id=a,bus=pcie.0,addr=3",
        "vfio-pci,host=0000:1a:00.0,id=b,bus=pcie.0,addr=4",
    ];
    assert!(refused(&host).contains("-device b: it is already passed to this machine as 'a'"));
    let socket = [
        "vfio-user-pci,socket=/x,id=a,bus=pcie.0,addr=3",
        "vfio-user-pci,socket=/x,id=b,bus=pcie.0,addr=4",
    ];
    assert!(refused(&socket).contains("already passed"));
}

#[test]
fn function_beside_a_single_function_device_is_refused() {
    let first = "vfio-pci,host=1a:00.0,id=a,bus=pcie.0,addr=3.0";
    let second = "vfio-pci,host=1a:00.1,id=b,bus=pcie.0,addr=3.1";
    assert!(
        refused(&[first, second])
            .contains("'a' is function 0 of that slot and says that it is the only one")
    );
    assert!(refused(&[second]).contains("cannot be found by the guest without a function 0"));
    assert_eq!(
        result(&[second, &format!("{first},multifunction=on")]),
        Ok(())
    );
}
