use super::*;
use crate::host::fake::{FakeHost, FakeKernel, Fault};

mod interrupted;

const NVME: &str = "0000:00:04.0";
const CARD_A: &str = "0000:00:0a.0";
const CARD_B: &str = "0000:00:0a.1";

fn request(addresses: &[&str]) -> Request {
    Request {
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        whole_groups: false,
        force: false,
    }
}

/// A host with an NVMe disk in group 1, and two cards and their bridge in group 2.
fn host() -> FakeHost {
    let host = FakeHost::new();
    host.device("", NVME, Some("nvme"), Some(1));
    host.device("", "0000:00:08.0", Some("pcieport"), Some(2));
    host.file("sys/devices/pci0000:00/0000:00:08.0/class", "0x060400\n");
    host.device("", CARD_A, Some("serial"), Some(2));
    host.device("", CARD_B, Some("serial"), Some(2));
    for driver in ["nvme", "serial", "other"] {
        host.file(&format!("sys/bus/pci/drivers/{driver}/new_id"), "");
    }
    host
}

fn run(
    action: fn(&Mover<'_>, &Request, &mut dyn Write) -> Result<(), HostError>,
    host: &FakeHost,
    kernel: &FakeKernel<'_>,
    request: &Request,
) -> Result<String, HostError> {
    let mut out = Vec::new();
    action(&host.mover(kernel), request, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn device_goes_to_vfio_and_back_to_the_driver_it_had() {
    let host = host();
    let kernel = FakeKernel::new(&host, "nvme", Fault::None);
    let said = run(bind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(
        said,
        "0000:00:04.0: nvme -> vfio-pci\ngroup 1: ready as /dev/vfio/1\n"
    );
    assert_eq!(host.driver(NVME).as_deref(), Some("vfio-pci"));
    let said = run(bind, &host, &kernel, &request(&[NVME])).unwrap();
    assert!(
        said.starts_with("0000:00:04.0: is with vfio-pci already\n"),
        "{said}"
    );
    let said = run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(said, "0000:00:04.0: vfio-pci -> nvme\n");
    assert_eq!(host.driver(NVME).as_deref(), Some("nvme"));
    assert_eq!(host.override_of(NVME), "");
    assert!(
        !host.path("run/0000:00:04.0.json").exists(),
        "the note is gone"
    );
}

#[test]
fn device_without_driver_goes_back_to_none() {
    let host = FakeHost::new();
    host.device("", NVME, None, Some(1));
    let kernel = FakeKernel::new(&host, "nvme", Fault::None);
    run(bind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(host.driver(NVME).as_deref(), Some("vfio-pci"));
    let said = run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(said, "0000:00:04.0: vfio-pci -> no driver\n");
    assert_eq!(host.driver(NVME), None);
}

#[test]
fn device_that_somebody_else_bound_goes_to_the_driver_that_fits() {
    let host = FakeHost::new();
    host.device("", NVME, Some("vfio-pci"), Some(1));
    let kernel = FakeKernel::new(&host, "nvme", Fault::None);
    run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(host.driver(NVME).as_deref(), Some("nvme"));
}

#[test]
fn device_without_iommu_can_be_given_back() {
    let host = FakeHost::new();
    host.device("", NVME, Some("vfio-pci"), None);
    let kernel = FakeKernel::new(&host, "nvme", Fault::None);
    run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(host.driver(NVME).as_deref(), Some("nvme"));
}

#[test]
fn override_of_the_operator_is_put_back() {
    let host = host();
    host.file("sys/bus/pci/devices/0000:00:04.0/driver_override", "nvme\n");
    let kernel = FakeKernel::new(&host, "other", Fault::None);
    run(bind, &host, &kernel, &request(&[NVME])).unwrap();
    run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(host.override_of(NVME), "nvme");
    assert_eq!(host.driver(NVME).as_deref(), Some("nvme"));
}

#[test]
fn whole_group_goes_without_its_bridge() {
    let host = host();
    let kernel = FakeKernel::new(&host, "serial", Fault::None);
    let one = run(bind, &host, &kernel, &request(&[CARD_A])).unwrap();
    assert!(
        one.contains("not usable before 0000:00:0a.1 (serial) is bound too"),
        "{one}"
    );
    let whole = Request {
        whole_groups: true,
        ..request(&[CARD_A])
    };
    let said = run(bind, &host, &kernel, &whole).unwrap();
    assert!(said.ends_with("group 2: ready as /dev/vfio/2\n"), "{said}");
    assert_eq!(host.driver(CARD_B).as_deref(), Some("vfio-pci"));
    assert_eq!(host.driver("0000:00:08.0").as_deref(), Some("pcieport"));
}

#[test]
fn failure_of_the_second_device_puts_the_first_one_back() {
    for fault in [Fault::Holds(CARD_B), Fault::VfioRefuses(CARD_B)] {
        let host = host();
        let kernel = FakeKernel::new(&host, "serial", fault);
        let error = run(bind, &host, &kernel, &request(&[CARD_A, CARD_B])).unwrap_err();
        let expected = if fault == Fault::Holds(CARD_B) { 6 } else { 7 };
        assert_eq!(error.exit_status(), expected, "{error}");
        assert!(error.line().contains(CARD_B), "{error}");
        for card in [CARD_A, CARD_B] {
            assert_eq!(host.driver(card).as_deref(), Some("serial"), "{fault:?}");
            assert_eq!(host.override_of(card), "", "{fault:?}");
            assert!(!host.path(&format!("run/{card}.json")).exists());
        }
    }
}

#[test]
fn device_stays_with_vfio_when_the_host_driver_does_not_take_it_back() {
    let host = host();
    let kernel = FakeKernel::new(&host, "nvme", Fault::HostRefuses(NVME));
    run(bind, &host, &kernel, &request(&[NVME])).unwrap();
    let error = run(unbind, &host, &kernel, &request(&[NVME])).unwrap_err();
    assert_eq!(error.exit_status(), 7, "{error}");
    assert_eq!(host.driver(NVME).as_deref(), Some("vfio-pci"));
    assert_eq!(host.override_of(NVME), "vfio-pci");
    assert!(
        host.path("run/0000:00:04.0.json").exists(),
        "the old driver is remembered"
    );
}

#[test]
fn failure_of_the_second_device_keeps_the_first_one_with_vfio() {
    let host = host();
    let kernel = FakeKernel::new(&host, "serial", Fault::HostRefuses(CARD_B));
    let both = request(&[CARD_A, CARD_B]);
    run(bind, &host, &kernel, &both).unwrap();
    let error = run(unbind, &host, &kernel, &both).unwrap_err();
    assert_eq!(error.exit_status(), 7, "{error}");
    for card in [CARD_A, CARD_B] {
        assert_eq!(host.driver(card).as_deref(), Some("vfio-pci"));
        assert_eq!(host.override_of(card), "vfio-pci");
        assert!(host.path(&format!("run/{card}.json")).exists());
    }
}

#[test]
fn bridge_is_refused_and_not_touched() {
    let host = host();
    let kernel = FakeKernel::new(&host, "serial", Fault::None);
    let error = run(bind, &host, &kernel, &request(&[CARD_A, "0000:00:08.0"])).unwrap_err();
    assert_eq!(error.exit_status(), 14, "{error}");
    assert!(error.line().contains("0000:00:08.0 is a PCI bridge"));
    assert!(kernel.steps.borrow().is_empty(), "nothing was touched");
}

#[test]
fn device_in_use_is_refused_and_forced() {
    let host = host();
    host.disk(NVME, "nvme0n1", "259:0", Some("/srv"));
    let kernel = FakeKernel::new(&host, "nvme", Fault::None);
    let error = run(bind, &host, &kernel, &request(&[NVME])).unwrap_err();
    assert_eq!(error.exit_status(), 4);
    assert!(
        error
            .line()
            .contains("nvme0n1 is mounted on /srv; unmount it"),
        "{error}"
    );
    assert!(kernel.steps.borrow().is_empty(), "nothing was touched");
    let forced = Request {
        force: true,
        ..request(&[NVME])
    };
    run(bind, &host, &kernel, &forced).unwrap();
    assert_eq!(host.driver(NVME).as_deref(), Some("vfio-pci"));
}

#[test]
fn group_shared_with_the_root_disk_is_refused_with_its_name() {
    let host = host();
    host.disk(CARD_B, "sda", "8:0", Some("/"));
    let kernel = FakeKernel::new(&host, "serial", Fault::None);
    for whole_groups in [false, true] {
        let asked = Request {
            whole_groups,
            ..request(&[CARD_A])
        };
        let error = run(bind, &host, &kernel, &asked).unwrap_err();
        assert_eq!(error.exit_status(), 5, "{error}");
        assert!(
            error.line().contains("0000:00:0a.0 shares IOMMU group 2 with 0000:00:0a.1, which is in use: sda is mounted on /"),
            "{error}"
        );
    }
    assert!(kernel.steps.borrow().is_empty(), "nothing was touched");
}

#[test]
fn device_that_a_virtual_machine_has_open_is_not_given_back() {
    let host = FakeHost::new();
    host.device("", NVME, Some("vfio-pci"), Some(1));
    host.file("proc/77/comm", "bulkhead-device\n");
    host.link("proc/77/fd/5", "dev/vfio/1");
    let kernel = FakeKernel::new(&host, "nvme", Fault::None);
    let error = run(unbind, &host, &kernel, &request(&[NVME])).unwrap_err();
    assert_eq!(error.exit_status(), 4);
    assert!(
        error
            .line()
            .contains("bulkhead-device (process 77) has it open"),
        "{error}"
    );
    assert_eq!(host.driver(NVME).as_deref(), Some("vfio-pci"));
}

#[test]
fn second_caller_is_told_who_was_first() {
    let host = host();
    let kernel = FakeKernel::new(&host, "nvme", Fault::None);
    let held = Lock::take(&host.roots, NVME.parse().unwrap()).unwrap();
    let error = run(bind, &host, &kernel, &request(&[NVME])).unwrap_err();
    assert_eq!(error.exit_status(), 12);
    assert!(
        error
            .line()
            .contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    drop(held);
    run(bind, &host, &kernel, &request(&[NVME])).unwrap();
}

#[test]
fn missing_device_missing_iommu_and_missing_driver_have_their_own_status() {
    let host = FakeHost::new();
    host.device("", NVME, Some("nvme"), None);
    host.device("", CARD_A, Some("serial"), Some(2));
    let kernel = FakeKernel::new(&host, "nvme", Fault::None);
    let status = |address| {
        run(bind, &host, &kernel, &request(&[address]))
            .unwrap_err()
            .exit_status()
    };
    assert_eq!(status("0000:7f:00.0"), 3);
    assert_eq!(status(NVME), 10);
    std::fs::remove_dir_all(host.path("sys/bus/pci/drivers/vfio-pci")).unwrap();
    assert_eq!(status(CARD_A), 11);
    assert!(kernel.steps.borrow().is_empty(), "nothing was touched");
}
