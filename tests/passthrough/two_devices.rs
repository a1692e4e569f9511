//! Two devices of two IOMMU groups in one guest, and whether Linux keeps the addresses that the VMM programmed.

use anyhow::{Context, Result};
use harness::guest::{Guest, GuestReport};
use harness::host_device::{E1000E, HostDevice, NVME};
use harness::pattern::record_in_hex;
use harness::vm::Vm;

const USE_BOTH: &str = r#"
    wait_for /dev/nvme0n1
    wait_for /sys/class/net/eth0
    ip addr add 10.0.2.15/24 dev eth0
    ip link set eth0 up
    tries=0
    until ping -c 1 -W 1 10.0.2.2 >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 30 ] || break
    done
    dd if=/dev/nvme0n1 of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null &
    ping -c 5 -i 0.1 10.0.2.2 | grep received
    wait
    echo "BLOCK $(block 4321)"
    echo "NVME-AT $(basename $(readlink /sys/class/nvme/nvme0/device))"
    echo "NET-AT $(basename $(readlink /sys/class/net/eth0/device))"
    dmesg | sed -n 's/^.*\] pci /PROGRAMMED pci /p'
    dmesg | grep -E "pci 0000.*(: assigned|can't assign|failed to assign|can't claim|no space)" | sed 's/^/COMPLAINT /'
    for device in /sys/bus/pci/devices/*; do
        grep -v '^0x0* 0x0*' $device/resource | sed "s/^/USED $(basename $device) /"
    done
"#;

fn assert_both_work(report: &GuestReport) -> Result<()> {
    assert!(
        report
            .output()
            .contains("5 packets received, 0% packet loss"),
        "{}",
        report.output()
    );
    assert_eq!(report.value("BLOCK")?, record_in_hex(4321));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn two_groups_behind_root_ports_keep_their_addresses() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    HostDevice::at(E1000E).give_to_vfio()?;
    assert_ne!(
        HostDevice::at(NVME).group()?,
        HostDevice::at(E1000E).group()?,
        "the lab gives each a group"
    );
    let nvme = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.1,addr=0x0");
    let net = format!("vfio-pci,host={E1000E},id=net,bus=pcie.2,addr=0x0");
    let arguments = [
        ["-m", "256M"],
        [
            "-device",
            "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1",
        ],
        [
            "-device",
            "pcie-root-port,id=pcie.2,port=0x2,bus=pcie.0,addr=0x2",
        ],
        ["-device", &nvme],
        ["-device", &net],
    ];
    let guest = Guest::running(USE_BOTH).with_all_drivers();
    let report = Vm::start(&arguments.concat(), &guest)?
        .finish()?
        .succeeded()?;
    assert_both_work(&report)?;
    assert_addresses_kept(&report)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn two_groups_as_functions_of_one_slot_work() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    HostDevice::at(E1000E).give_to_vfio()?;
    let nvme = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03.0x0,multifunction=on");
    let net = format!("vfio-pci,host={E1000E},id=net,bus=pcie.0,addr=0x03.0x1");
    let guest = Guest::running(USE_BOTH).with_all_drivers();
    let report = Vm::start(&["-m", "256M", "-device", &nvme, "-device", &net], &guest)?
        .finish()?
        .succeeded()?;
    assert_both_work(&report)?;
    assert_eq!(report.value("NVME-AT")?, "0000:00:03.0");
    assert_eq!(report.value("NET-AT")?, "0000:00:03.1");
    assert_addresses_kept(&report)
}

/// What Linux found in the BARs at its first look is what it uses in the end, and it complained of nothing (an
/// expansion ROM may be left to Linux).
fn assert_addresses_kept(report: &GuestReport) -> Result<()> {
    let complaints: Vec<&str> = report
        .values("COMPLAINT")
        .into_iter()
        .filter(|line| !line.contains(" ROM "))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let used = report.values("USED");
    let mut compared = 0;
    for line in report
        .values("PROGRAMMED")
        .into_iter()
        .filter(|line| is_bar(line))
    {
        let (device, start) =
            programmed_bar(line).with_context(|| format!("an address in {line:?}"))?;
        let kept = used
            .iter()
            .any(|used| used_start(used) == Some((device, start)));
        assert!(kept, "{line:?} is not among what is used:\n{used:#?}");
        assert_ne!(start, 0, "{line:?} has an address");
        compared += 1;
    }
    assert!(
        compared >= 4,
        "the NVMe has one BAR and the e1000e four, and dmesg told of {compared}"
    );
    Ok(())
}

/// Old and new kernels: "pci 0000:01:00.0: reg 0x10: [mem ...]" and "pci 0000:01:00.0: BAR 0 [mem ...]".
fn is_bar(line: &str) -> bool {
    ["reg 0x1", "reg 0x2", "BAR "]
        .iter()
        .any(|word| line.contains(word))
}

/// The device and the start of the range in such a line.
fn programmed_bar(line: &str) -> Option<(&str, u64)> {
    let device = line.split(' ').nth(1)?.trim_end_matches(':');
    let (_, range) = line
        .split_once("[mem 0x")
        .or_else(|| line.split_once("[io  0x"))?;
    Some((
        device,
        u64::from_str_radix(range.split('-').next()?, 16).ok()?,
    ))
}

/// "0000:01:00.0 0x00000000c0000000 0x00000000c0003fff 0x0000000000140204"
fn used_start(line: &str) -> Option<(&str, u64)> {
    let (device, range) = line.split_once(' ')?;
    Some((
        device,
        u64::from_str_radix(range.split(' ').next()?.strip_prefix("0x")?, 16).ok()?,
    ))
}
