//! What the command line gets wrong. Needs no lab: it is refused before anything is opened.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::scratch::Scratch;
use harness::{programs, refusal};

const AT_ONCE: Duration = Duration::from_secs(1);
const PORT: &str = "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1";

/// Starts a VMM with `devices`, which has to refuse them with a line that names `words`.
fn refused_devices(devices: &[&str], words: &[&str]) -> Result<()> {
    let mut arguments = vec![
        "-machine",
        "q35",
        "-m",
        "512M",
        "-kernel",
        "/nonexistent/vmlinuz",
        "-serial",
        "none",
    ];
    for device in devices {
        arguments.extend(["-device", device]);
    }
    refusal::of_vmm(&arguments)?.names(words)?.within(AT_ONCE)?;
    Ok(())
}

#[test]
fn host_missing_is_refused() -> Result<()> {
    refused_devices(&["vfio-pci,id=net,bus=pcie.0,addr=0x3"], &["host"])
}

#[test]
fn host_that_is_a_path_is_refused() -> Result<()> {
    refused_devices(
        &["vfio-pci,host=../../../etc,id=net,bus=pcie.0,addr=0x3"],
        &["../../../etc", "0000:1a:00.3"],
    )
}

#[test]
fn host_with_slot_32_is_refused() -> Result<()> {
    refused_devices(
        &["vfio-pci,host=0000:00:20.0,id=net,bus=pcie.0,addr=0x3"],
        &["0000:00:20.0"],
    )
}

#[test]
fn host_given_twice_is_refused() -> Result<()> {
    let first = "vfio-pci,host=0000:00:04.0,id=a,bus=pcie.0,addr=0x3";
    let again = "vfio-pci,host=0000:00:04.0,id=b,bus=pcie.0,addr=0x4";
    refused_devices(&[first, again], &["-device b", "'a'"])
}

#[test]
fn id_missing_is_refused() -> Result<()> {
    refused_devices(
        &["vfio-pci,host=0000:00:04.0,bus=pcie.0,addr=0x3"],
        &["id is missing or empty", "id=net"],
    )
}

#[test]
fn id_given_twice_is_refused() -> Result<()> {
    let first = "vfio-pci,host=0000:00:04.0,id=net,bus=pcie.0,addr=0x3";
    let again = "vfio-pci,host=0000:00:05.0,id=net,bus=pcie.0,addr=0x4";
    refused_devices(
        &[first, again],
        &["-device net", "this id is taken by another device"],
    )
}

#[test]
fn unknown_bus_is_refused() -> Result<()> {
    refused_devices(
        &["vfio-pci,host=0000:00:04.0,id=net,bus=pcie.7,addr=0x3"],
        &["pcie.7"],
    )
}

#[test]
fn slot_32_is_refused() -> Result<()> {
    refused_devices(
        &["vfio-pci,host=0000:00:04.0,id=net,bus=pcie.0,addr=0x20"],
        &["0x20"],
    )
}

#[test]
fn function_8_is_refused() -> Result<()> {
    refused_devices(
        &["vfio-pci,host=0000:00:04.0,id=net,bus=pcie.0,addr=0x3.0x8"],
        &["0x8"],
    )
}

#[test]
fn addr_with_three_parts_is_refused() -> Result<()> {
    refused_devices(
        &["vfio-pci,host=0000:00:04.0,id=net,bus=pcie.0,addr=0x3.0x0.0x0"],
        &["addr", "0x3.0x0.0x0"],
    )
}

#[test]
fn occupied_slot_is_refused() -> Result<()> {
    let first = "vfio-pci,host=0000:00:04.0,id=a,bus=pcie.0,addr=0x3";
    let again = "vfio-pci,host=0000:00:05.0,id=b,bus=pcie.0,addr=0x3";
    refused_devices(
        &[first, again],
        &[
            "-device b",
            "slot 0x3 function 0 of bus \"pcie.0\" is already taken by 'a'",
        ],
    )
}

#[test]
fn second_function_without_multifunction_is_refused() -> Result<()> {
    let first = "vfio-pci,host=0000:00:04.0,id=a,bus=pcie.0,addr=0x3.0x0";
    let again = "vfio-pci,host=0000:00:05.0,id=b,bus=pcie.0,addr=0x3.0x1";
    refused_devices(&[first, again], &["multifunction=on"])
}

#[test]
fn slot_1_of_a_root_port_is_refused() -> Result<()> {
    refused_devices(
        &[
            PORT,
            "vfio-pci,host=0000:00:04.0,id=net,bus=pcie.1,addr=0x1",
        ],
        &["pcie.1", "slot"],
    )
}

#[test]
fn unknown_property_is_refused() -> Result<()> {
    refused_devices(
        &["vfio-pci,host=0000:00:04.0,id=net,bus=pcie.0,addr=0x3,romfile=x"],
        &["romfile"],
    )
}

#[test]
fn unknown_driver_is_refused() -> Result<()> {
    refused_devices(
        &["virtio-net-pci,id=net,bus=pcie.0,addr=0x3"],
        &["virtio-net-pci"],
    )
}

#[test]
fn log_file_is_the_owners_alone_whatever_the_umask() -> Result<()> {
    let scratch = Scratch::new()?;
    let log = scratch.file("vm.log");
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$@\"", "sh"]);
    command.arg(programs::find(programs::VMM)?);
    command.args(["-kernel", "/nonexistent/vmlinuz", "-D", &log]);
    refusal::of(&mut command)?.names(&["/nonexistent/vmlinuz"])?;
    let mode = std::fs::metadata(&log)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{log} has mode {mode:o}");
    Ok(())
}

#[test]
fn memory_without_number_is_refused() -> Result<()> {
    let arguments = [
        "-machine",
        "q35",
        "-m",
        "lots",
        "-kernel",
        "/nonexistent/vmlinuz",
        "-serial",
        "none",
    ];
    refusal::of_vmm(&arguments)?
        .names(&["lots"])?
        .within(AT_ONCE)?;
    Ok(())
}

#[test]
fn print_sandbox_tells_the_tables_and_what_is_in_force() -> Result<()> {
    for (program, words, role) in [
        (
            programs::find(programs::VMM)?,
            ["-print-sandbox"].as_slice(),
            "VMM",
        ),
        (
            programs::find(programs::DEVICE_SERVER)?,
            &["vfio", "--print-sandbox"],
            "device server, iommufd",
        ),
    ] {
        let output = Command::new(program).args(words).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{words:?}: {output:?}");
        for expected in [role, "ioctl(", "in force here", "seccomp: ", "landlock: "] {
            ensure!(
                text.contains(expected),
                "{words:?} says no {expected}: {text}"
            );
        }
    }
    Ok(())
}
