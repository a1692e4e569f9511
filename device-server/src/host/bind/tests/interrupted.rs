//! What a killed bind or unbind leaves, or somebody's own half of the work, is completed or undone.

use super::*;

const NOTE: &str = "run/0000:00:04.0.json";
const NVME_OVERRIDE: &str = "sys/bus/pci/devices/0000:00:04.0/driver_override";

/// The NVMe disk with `driver`, `driver_override`, and a note that it had nvme.
fn left(driver: Option<&str>, driver_override: &str) -> FakeHost {
    let host = FakeHost::new();
    host.device("", NVME, driver, Some(1));
    host.file("sys/bus/pci/drivers/nvme/new_id", "");
    host.file(NVME_OVERRIDE, &format!("{driver_override}\n"));
    host.file(NOTE, r#"{"driver":"nvme","driver_override":""}"#);
    host
}

/// What each step of `bind` and `unbind` leaves behind.
fn all_that_may_be_left() -> [FakeHost; 3] {
    [
        left(Some("nvme"), "vfio-pci"),
        left(None, "vfio-pci"),
        left(None, "nvme"),
    ]
}

#[test]
fn unbind_after_a_killed_bind_or_unbind_gives_the_device_to_its_driver() {
    for host in all_that_may_be_left() {
        let kernel = FakeKernel::new(&host, "other", Fault::None);
        run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
        assert_eq!(host.driver(NVME).as_deref(), Some("nvme"));
        assert_eq!(host.override_of(NVME), "");
        assert!(!host.path(NOTE).exists(), "the note is gone");
    }
}

#[test]
fn bind_after_a_killed_bind_remembers_the_first_driver() {
    for host in all_that_may_be_left() {
        let kernel = FakeKernel::new(&host, "other", Fault::None);
        run(bind, &host, &kernel, &request(&[NVME])).unwrap();
        assert_eq!(host.driver(NVME).as_deref(), Some("vfio-pci"));
        run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
        assert_eq!(host.driver(NVME).as_deref(), Some("nvme"));
        assert_eq!(host.override_of(NVME), "");
    }
}

#[test]
fn bind_that_fails_after_a_killed_bind_gives_the_device_to_its_driver() {
    for host in all_that_may_be_left() {
        let kernel = FakeKernel::new(&host, "other", Fault::VfioRefuses(NVME));
        let error = run(bind, &host, &kernel, &request(&[NVME])).unwrap_err();
        assert_eq!(error.exit_status(), 7, "{error}");
        assert_eq!(host.driver(NVME).as_deref(), Some("nvme"));
        assert_eq!(host.override_of(NVME), "");
    }
}

#[test]
fn note_of_a_device_that_somebody_has_taken_back_is_no_longer_followed() {
    let host = left(Some("other"), "");
    let kernel = FakeKernel::new(&host, "other", Fault::None);
    let said = run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(said, "0000:00:04.0: is not with vfio-pci, but with other\n");
    run(bind, &host, &kernel, &request(&[NVME])).unwrap();
    run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(host.driver(NVME).as_deref(), Some("other"));
}

#[test]
fn override_to_vfio_that_was_there_before_does_not_keep_the_device() {
    let host = host();
    host.file(NVME_OVERRIDE, "vfio-pci\n");
    let kernel = FakeKernel::new(&host, "nvme", Fault::None);
    run(bind, &host, &kernel, &request(&[NVME])).unwrap();
    run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(host.driver(NVME).as_deref(), Some("nvme"));
    assert_eq!(host.override_of(NVME), "");
}

#[test]
fn override_to_vfio_that_was_there_before_is_put_back_when_bind_fails() {
    let host = host();
    host.file(NVME_OVERRIDE, "vfio-pci\n");
    let kernel = FakeKernel::new(&host, "nvme", Fault::VfioRefuses(NVME));
    run(bind, &host, &kernel, &request(&[NVME])).unwrap_err();
    assert_eq!(host.driver(NVME).as_deref(), Some("nvme"));
    assert_eq!(host.override_of(NVME), "vfio-pci");
}

#[test]
fn driver_that_was_unloaded_meanwhile_is_replaced_by_one_that_fits() {
    let host = left(Some("vfio-pci"), "vfio-pci");
    std::fs::remove_dir_all(host.path("sys/bus/pci/drivers/nvme")).unwrap();
    let kernel = FakeKernel::new(&host, "other", Fault::None);
    run(unbind, &host, &kernel, &request(&[NVME])).unwrap();
    assert_eq!(host.driver(NVME).as_deref(), Some("other"));
}

#[test]
fn device_that_only_vfio_takes_is_said_to_have_stayed() {
    let host = FakeHost::new();
    host.device("", NVME, Some("vfio-pci"), Some(1));
    let kernel = FakeKernel::new(&host, "vfio-pci", Fault::None);
    let error = run(unbind, &host, &kernel, &request(&[NVME])).unwrap_err();
    assert_eq!(error.exit_status(), 7, "{error}");
    assert!(error.line().contains("vfio-pci did"), "{error}");
}
