use super::*;
use crate::host::fake::FakeHost;

const DISK: &str = "0000:00:04.0";

fn host() -> FakeHost {
    let host = FakeHost::new();
    host.device("", DISK, Some("ahci"), Some(1));
    host
}

fn uses(host: &FakeHost) -> String {
    let device = HostDevice::read(&host.roots.sysfs, DISK.parse().unwrap()).unwrap();
    joined(&Usage::read(&host.roots).of(&device))
}

#[test]
fn file_system_on_a_partition_and_on_what_is_stacked_on_it_is_found() {
    let host = host();
    host.disk(DISK, "sda", "8:0", None);
    host.file("sys/class/block/sda/sda1/dev", "8:1\n");
    host.link(
        "sys/class/block/sda1",
        "sys/devices/pci0000:00/0000:00:04.0/block/sda/sda1",
    );
    host.file("sys/class/block/sda1/partition", "1");
    host.file("sys/class/block/sda1/holders/dm-0", "");
    host.file("sys/class/block/dm-0/dev", "253:0\n");
    host.file("sys/class/block/dm-0/dm/name", "vg-root\n");
    assert_eq!(uses(&host), "");
    host.file(
        "proc/1/mountinfo",
        "1 0 0:30 / / rw - btrfs /dev/mapper/vg-root rw\n2 1 8:1 / /boot rw - ext4 /dev/root rw\n",
    );
    assert_eq!(
        uses(&host),
        "dm-0 is mounted on /; sda1 is mounted on /boot"
    );
}

#[test]
fn disk_behind_nvme_multipath_is_found() {
    let host = host();
    host.disk(DISK, "nvme0c0n1", "0:0", None);
    host.file("sys/class/block/nvme0n1/dev", "259:3\n");
    host.file(
        "proc/self/mountinfo",
        "1 0 259:3 / /srv rw - xfs /dev/nvme0n1 rw\n",
    );
    assert_eq!(uses(&host), "nvme0n1 is mounted on /srv");
}

#[test]
fn swap_and_a_process_with_the_disk_open_are_found() {
    let host = host();
    host.disk(DISK, "sda", "8:0", None);
    host.file(
        "proc/swaps",
        "Filename Type Size Used Priority\n/dev/sda partition 1 0 -2\n",
    );
    host.file("proc/12/comm", "qemu\n");
    host.link("proc/12/fd/3", "dev/sda");
    assert_eq!(
        uses(&host),
        "the host swaps to sda; qemu (process 12) has sda open"
    );
}

#[test]
fn mount_of_another_disk_is_no_use() {
    let host = host();
    host.disk(DISK, "sda", "8:0", None);
    host.file(
        "proc/self/mountinfo",
        "1 0 8:16 / /srv rw - xfs /dev/sdb rw\nbroken line\n",
    );
    assert_eq!(uses(&host), "");
}

#[test]
fn default_route_through_the_interface_or_a_bridge_above_it_is_found() {
    let host = host();
    host.file("sys/devices/pci0000:00/0000:00:04.0/net/eth0/upper_br0", "");
    host.link(
        "sys/class/net/eth0",
        "sys/devices/pci0000:00/0000:00:04.0/net/eth0",
    );
    let header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
    host.file(
        "proc/net/route",
        &format!("{header}eth0 0002000A 0 1 0 0 0 00FFFFFF 0 0 0\n"),
    );
    assert_eq!(
        uses(&host),
        "",
        "a route to one network is no default route"
    );
    host.file(
        "proc/net/route",
        &format!("{header}br0 00000000 0102000A 3 0 0 0 00000000 0 0 0\n"),
    );
    assert_eq!(uses(&host), "the default route goes through br0 and eth0");
    host.file("proc/net/route", header);
    let zeros = "0".repeat(32);
    let v6 =
        |interface| format!("{zeros} 00 {zeros} 00 {zeros} 00000400 1 0 00000003 {interface}\n");
    host.file("proc/net/ipv6_route", &(v6("lo") + &v6("eth0")));
    assert_eq!(uses(&host), "the default route goes through eth0");
}

#[test]
fn virtual_functions_and_vfio_users_are_found() {
    let host = FakeHost::new();
    host.device("", DISK, Some("vfio-pci"), Some(7));
    for number in [0, 1] {
        let link = format!("sys/bus/pci/devices/0000:00:04.0/virtfn{number}");
        host.link(
            &link,
            &format!("sys/bus/pci/devices/0000:00:04.{}", number + 1),
        );
    }
    host.file("sys/bus/pci/devices/0000:00:04.0/vfio-dev/vfio3/dev", "");
    host.file("proc/9/comm", "vmm\n");
    host.link("proc/9/fd/3", "dev/vfio/devices/vfio3");
    assert_eq!(
        uses(&host),
        "vmm (process 9) has it open; it has 2 virtual functions"
    );
}
