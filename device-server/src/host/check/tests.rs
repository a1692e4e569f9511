use super::*;
use crate::host::fake::FakeHost;

const CARD: &str = "0000:01:00.0";

/// A host on which everything is as it should be, with one NVMe disk below a root port.
fn good_host() -> FakeHost {
    let host = FakeHost::new();
    host.file("sys/class/iommu/dmar0/intel-iommu/version", "1:0\n");
    host.file("sys/module/vfio_pci/initstate", "live\n");
    host.file(
        "sys/devices/system/cpu/vulnerabilities/mmio_stale_data",
        "Not affected\n",
    );
    host.file("proc/interrupts", "  0: 1 IR-IO-APIC 2-edge timer\n");
    host.file(
        "proc/self/limits",
        "Max locked memory  unlimited  unlimited  bytes\n",
    );
    for node in ["dev/vfio/vfio", "dev/kvm"] {
        host.file(node, "");
    }
    host.device("", "0000:00:08.0", Some("pcieport"), Some(3));
    host.device("0000:00:08.0", CARD, Some("vfio-pci"), Some(6));
    let mut bridge = vec![0u8; 4096];
    bridge[0x100..0x104].copy_from_slice(&0x0001_000du32.to_le_bytes());
    bridge[0x106] = 0x1d;
    std::fs::write(host.path("sys/bus/pci/devices/0000:00:08.0/config"), bridge).unwrap();
    std::fs::write(
        host.path("sys/bus/pci/devices/0000:01:00.0/config"),
        [0; 256],
    )
    .unwrap();
    host.file("sys/bus/pci/devices/0000:01:00.0/reset_method", "flr bus\n");
    host.file(
        "sys/bus/pci/devices/0000:01:00.0/resource",
        "0x000000c000000000 0x000000c000003fff 0x0000000000140204\n0x0 0x0 0x0\n0xc040 0xc05f 0x40101\n",
    );
    host
}

fn check(host: &FakeHost) -> Vec<Finding> {
    findings(&host.roots, Some(CARD.parse().unwrap())).unwrap()
}

/// The findings that are not ok, as "level subject".
fn troubles(host: &FakeHost) -> Vec<String> {
    check(host)
        .iter()
        .filter(|finding| finding.level != Level::Ok)
        .map(|finding| {
            assert!(!finding.advice.is_empty(), "{finding:?} says what to do");
            format!("{} {}", finding.level.name(), finding.subject)
        })
        .collect()
}

fn text_of(host: &FakeHost, subject: &str) -> String {
    let findings = check(host);
    let found = findings.iter().find(|finding| finding.subject == subject);
    found.unwrap().text.clone()
}

#[test]
fn good_host_and_device_are_ok() {
    let host = good_host();
    assert_eq!(troubles(&host), Vec::<String>::new());
    assert_eq!(overall(&check(&host)), Level::Ok);
    assert_eq!(
        text_of(&host, "bars"),
        "0: 16 KiB memory; 2: 32 bytes ports, never mapped"
    );
    assert_eq!(text_of(&host, "acs"), "on in all bridges above the device");
    assert_eq!(text_of(&host, "reset"), "flr bus");
}

#[test]
fn each_fault_of_the_host_is_named() {
    let faults: [(&str, &str, &str); 8] = [
        (
            "proc/interrupts",
            "  0: 1 IO-APIC 2-edge timer\n",
            "blocked interrupt remapping",
        ),
        (
            "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
            "Y\n",
            "blocked unsafe interrupts",
        ),
        (
            "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            "Y\n",
            "warning no-IOMMU mode",
        ),
        (
            "proc/self/limits",
            "Max locked memory  8388608  8388608  bytes\n",
            "warning memlock",
        ),
        (
            "sys/devices/system/cpu/vulnerabilities/mmio_stale_data",
            "Vulnerable: Clear CPU buffers attempted, no microcode\n",
            "warning mmio stale data",
        ),
        (
            "sys/devices/system/cpu/vulnerabilities/mmio_stale_data",
            "Mitigation: Clear CPU buffers; SMT vulnerable\n",
            "warning mmio stale data",
        ),
        (
            "sys/bus/pci/devices/0000:01:00.0/reset_method",
            "\n",
            "warning reset",
        ),
        (
            "sys/bus/pci/devices/0000:01:00.0/resource",
            "0x0 0x3fff 0x140204\n",
            "blocked bars",
        ),
    ];
    for (path, text, expected) in faults {
        let host = good_host();
        host.file(path, text);
        assert_eq!(troubles(&host), [expected], "{path}");
    }
}

#[test]
fn missing_iommu_says_whether_the_firmware_has_one() {
    let host = FakeHost::new();
    host.file("proc/cpuinfo", "vendor_id : AuthenticAMD\n");
    let of = |host: &FakeHost| findings(&host.roots, None).unwrap().remove(0);
    assert_eq!(of(&host).level, Level::Blocked);
    assert!(of(&host).advice.contains("AMD-Vi"), "{:?}", of(&host));
    host.file("sys/firmware/acpi/tables/IVRS", "");
    assert!(of(&host).text.contains("off"), "{:?}", of(&host));
    host.file("proc/cpuinfo", "vendor_id : GenuineIntel\n");
    assert!(
        of(&host).advice.contains("intel_iommu=on"),
        "{:?}",
        of(&host)
    );
}

#[test]
fn vfio_pci_as_a_module_that_is_not_loaded_is_a_warning() {
    let host = good_host();
    std::fs::remove_dir_all(host.path("sys/bus/pci/drivers/vfio-pci")).unwrap();
    host.file("proc/sys/kernel/osrelease", "6.1.0-test\n");
    assert_eq!(troubles(&host), ["blocked vfio-pci"]);
    host.file(
        "lib/modules/6.1.0-test/modules.dep",
        "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n",
    );
    assert_eq!(troubles(&host), ["warning vfio-pci"]);
}

#[test]
fn device_on_a_host_driver_in_a_shared_group_is_a_warning_with_the_command() {
    let host = good_host();
    host.device("", "0000:00:0a.0", Some("nvme"), Some(9));
    host.device("", "0000:00:0a.1", Some("serial"), Some(9));
    let check = || findings(&host.roots, Some("0a:00.0".parse().unwrap())).is_err();
    assert!(check(), "no such device");
    let of = || findings(&host.roots, Some("00:0a.0".parse().unwrap())).unwrap();
    let advice = |subject| {
        let findings = of();
        let found = findings.iter().find(|finding| finding.subject == subject);
        let found = found.unwrap();
        (found.level, found.advice.clone())
    };
    assert_eq!(
        advice("driver"),
        (
            Level::Warning,
            "bulkhead-device-server host bind 0000:00:0a.0".to_owned()
        )
    );
    assert_eq!(
        advice("others in the group"),
        (
            Level::Warning,
            "bulkhead-device-server host bind --group 0000:00:0a.0".to_owned()
        )
    );
    host.disk("0000:00:0a.1", "sda", "8:0", Some("/"));
    assert_eq!(advice("others in the group").0, Level::Blocked);
    assert_eq!(overall(&of()).exit_status(), 2);
}

#[test]
fn bridge_without_acs_matters_only_in_a_shared_group() {
    let host = good_host();
    std::fs::write(
        host.path("sys/bus/pci/devices/0000:00:08.0/config"),
        [0; 4096],
    )
    .unwrap();
    assert_eq!(troubles(&host), Vec::<String>::new());
    host.device("0000:00:08.0", "0000:01:00.1", None, Some(6));
    assert_eq!(troubles(&host), ["warning acs"]);
}

#[test]
fn json_has_the_worst_level_and_every_finding() {
    let host = good_host();
    host.file("sys/bus/pci/devices/0000:01:00.0/reset_method", "\n");
    let mut out = Vec::new();
    print(&check(&host), Format::Json, &mut out).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(value["status"], "warning");
    assert_eq!(
        value["findings"].as_array().unwrap().len(),
        check(&host).len()
    );
    assert_eq!(value["findings"][0]["subject"], "iommu");
    assert_eq!(value["findings"][0]["level"], "ok");
}

#[test]
fn device_nodes_are_there_where_the_kernel_has_numbers_for_them() {
    let host = good_host();
    host.file("dev/iommu", "");
    host.file("sys/class/vfio-dev/vfio0/uevent", "");
    assert!(!HostFacts::read(&host.roots).cdev);
    host.file(
        "proc/devices",
        "Character devices:\n510 vfio-dev\n511 vfio\n",
    );
    assert!(HostFacts::read(&host.roots).cdev);
}
