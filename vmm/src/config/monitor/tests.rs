use super::*;

fn refused(outcome: Result<impl std::fmt::Debug, ConfigError>) -> String {
    outcome.unwrap_err().to_string()
}

#[test]
fn qmp_on_a_unix_socket_in_both_spellings() {
    for text in [
        "unix:/run/qmp.sock,server,nowait",
        "unix:/run/qmp.sock,server=on,wait=off",
    ] {
        let monitor = parse_qmp(text).unwrap();
        assert_eq!(monitor, MonitorConfig::Unix("/run/qmp.sock".into()));
    }
}

#[test]
fn qmp_that_waits_or_connects_is_refused() {
    assert!(refused(parse_qmp("unix:/run/q,server=on")).contains("add wait=off"));
    assert!(refused(parse_qmp("unix:/run/q,nowait")).contains("add server=on"));
}

#[test]
fn qmp_on_tcp_is_for_loopback_only() {
    for text in ["tcp:127.0.0.1:4444", "tcp:localhost:4444", "tcp:[::1]:4444"] {
        parse_qmp(&format!("{text},server=on,wait=off")).unwrap();
    }
    for text in [
        "tcp:0.0.0.0:4444",
        "tcp::4444",
        "tcp:192.0.2.1:4444",
        "tcp:[::]:4444",
    ] {
        let error = refused(parse_qmp(&format!("{text},server=on,wait=off")));
        assert!(error.contains("loopback only"), "{error}");
    }
}

#[test]
fn chardev_and_mon_make_a_monitor() {
    let chardev = ["socket,id=mon0,path=/run/q,server=on,wait=off".to_owned()];
    let mon = ["chardev=mon0,mode=control".to_owned()];
    assert_eq!(
        parse_all(&[], &chardev, &mon).unwrap(),
        [MonitorConfig::Unix("/run/q".into())]
    );
    let inherited = ["socket,id=mon0,fd=7,server=on,wait=off".to_owned()];
    assert_eq!(
        parse_all(&[], &inherited, &mon).unwrap(),
        [MonitorConfig::Fd(7)]
    );
}

#[test]
fn mon_without_chardev_and_chardev_without_mon_are_refused() {
    let chardev = ["socket,id=mon0,path=/run/q,server=on,wait=off".to_owned()];
    assert!(refused(parse_all(&[], &chardev, &[])).contains("nothing uses it"));
    let mon = ["chardev=other,mode=control".to_owned()];
    assert!(refused(parse_all(&[], &chardev, &mon)).contains("no -chardev with id=other"));
    let readline = ["chardev=mon0,mode=readline".to_owned()];
    assert!(refused(parse_all(&[], &chardev, &readline)).contains("mode=control"));
}

#[test]
fn name_is_taken_with_and_without_its_key() {
    for text in ["vm1", "guest=vm1,debug-threads=on"] {
        assert_eq!(parse_name(text).unwrap(), "vm1");
    }
}
