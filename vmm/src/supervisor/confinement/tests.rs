use super::*;

fn range(first: u32, last: u32) -> UidRange {
    UidRange { first, last }
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("bulkhead-uids-{name}-{}", std::process::id()))
}

/// As two VMs with the same range do.
#[test]
fn uid_that_another_vm_has_is_not_taken_and_is_free_again_after_it() {
    let folder = folder("two");
    let first = Uids::new(&folder, range(200_000, 200_001)).unwrap();
    let second = Uids::new(&folder, range(200_000, 200_001)).unwrap();
    let (a, b) = (first.take().unwrap(), second.take().unwrap());
    assert_eq!((a.number(), b.number()), (200_000, 200_001));
    let refused = second.take().unwrap_err().to_string();
    assert!(refused.contains("all of them are in use"), "{refused}");
    drop(a.into_lock());
    assert_eq!(second.take().unwrap().number(), 200_000);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn server_that_waits_does_not_take_the_last_uid() {
    let folder = folder("spare");
    let uids = Uids::new(&folder, range(200_000, 200_002)).unwrap();
    let confinement = Confinement {
        mode: Mode::On,
        privileged: true,
        uids: Some(uids),
        cgroup: None,
    };
    let vmm = confinement.birth().unwrap();
    let spare = confinement.birth_of_a_spare().unwrap();
    assert_eq!((vmm.uid(), spare.uid()), (Some(200_000), Some(200_001)));
    let refused = confinement.birth_of_a_spare().unwrap_err().to_string();
    assert!(refused.contains("all of them are in use"), "{refused}");
    let server = confinement.birth().unwrap();
    assert_eq!(server.uid(), Some(200_002));
    drop((vmm, spare, server));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn folder_that_cannot_be_made_is_named() {
    let refused = Uids::new(Path::new("/proc/bulkhead"), range(5, 6)).unwrap_err();
    assert!(refused.to_string().contains("/proc/bulkhead"), "{refused}");
}

#[test]
fn first_number_that_a_map_lacks_is_found() {
    let map = folder("map");
    let text = "         0     100000      65536\n     70000     200000      10\n";
    std::fs::write(&map, text).unwrap();
    let path = map.to_str().unwrap();
    assert_eq!(missing(path, range(1, 65_535)), None);
    assert_eq!(missing(path, range(65_000, 70_000)), Some(65_536));
    assert_eq!(missing(path, range(70_000, 70_010)), Some(70_010));
    assert_eq!(missing("/no/such/map", range(1, 2)), None);
    std::fs::remove_file(map).unwrap();
}

#[test]
fn cgroup_that_is_missing_or_none_is_refused_by_name() {
    let refused = open_cgroup(Path::new("/sys/fs/cgroup/no-such")).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.starts_with("-sandbox-cgroup /sys/fs/cgroup/no-such:"),
        "{text}"
    );
    assert!(text.contains("make it first"), "{text}");
    let refused = open_cgroup(Path::new("/tmp")).unwrap_err().to_string();
    assert!(refused.contains("is no folder of a cgroup v2"), "{refused}");
}
