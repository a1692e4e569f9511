//! What a service manager is told.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::PATIENCE;

#[test]
fn service_manager_hears_that_the_server_is_ready_and_that_it_stops() {
    let folder = std::env::temp_dir().join(format!("bulkhead-notify-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let manager = UnixDatagram::bind(folder.join("notify")).expect("a socket");
    manager
        .set_read_timeout(Some(PATIENCE))
        .expect("a deadline");
    let mut server = Command::new(env!("CARGO_BIN_EXE_bulkhead-device-server"))
        .args(["test", "--socket"])
        .arg(folder.join("x.sock"))
        .env("NOTIFY_SOCKET", folder.join("notify"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the server");
    let told = || {
        let mut text = [0; 64];
        let len = manager.recv(&mut text).expect("a notice in time");
        String::from_utf8_lossy(&text[..len]).into_owned()
    };
    assert_eq!(told(), "READY=1");
    assert!(folder.join("x.sock").exists(), "it serves by then");
    kill_process(Pid::from_child(&server), Signal::TERM).expect("a signal");
    assert_eq!(told(), "STOPPING=1");
    assert!(server.wait().expect("its end").success());
    std::fs::remove_dir_all(folder).expect("clean up");
}
