use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

/// A directory of its own for one test, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path =
            std::env::temp_dir().join(format!("bulkhead-listener-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("directory");
        Directory(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("x.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn bound_socket_is_private_and_removed_on_drop() {
    let directory = Directory::new("private");
    let (_listener, file) = Listener::bind(&directory.socket()).expect("bind");
    let mode = fs::symlink_metadata(directory.socket())
        .expect("metadata")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(file);
    assert!(!directory.socket().exists());
}

#[test]
fn l11_stale_socket_is_replaced() {
    let directory = Directory::new("stale");
    drop(UnixListener::bind(directory.socket()).expect("an old server"));
    let (listener, _file) = Listener::bind(&directory.socket()).expect("bind");
    let _client = UnixStream::connect(directory.socket()).expect("connect");
    assert!(listener.accept().expect("accept").is_some());
}

#[test]
fn l11_live_socket_is_never_unlinked() {
    let directory = Directory::new("live");
    let other = UnixListener::bind(directory.socket()).expect("another server");
    let error = Listener::bind(&directory.socket()).expect_err("in use");
    assert!(matches!(error, ListenError::InUse { .. }), "{error}");
    let _client = UnixStream::connect(directory.socket()).expect("the other server is still there");
    other.accept().expect("and accepts the probe");
}

#[test]
fn file_that_is_no_socket_is_left_alone() {
    let directory = Directory::new("file");
    fs::write(directory.socket(), "precious").expect("file");
    let error = Listener::bind(&directory.socket()).expect_err("not a socket");
    assert!(matches!(error, ListenError::NotASocket { .. }), "{error}");
    assert_eq!(
        fs::read(directory.socket()).expect("still there"),
        b"precious"
    );
}

#[test]
fn file_of_somebody_else_is_not_removed_on_drop() {
    let directory = Directory::new("moved");
    let (_listener, file) = Listener::bind(&directory.socket()).expect("bind");
    fs::remove_file(directory.socket()).expect("remove");
    let _other = UnixListener::bind(directory.socket()).expect("another server takes the path");
    drop(file);
    assert!(directory.socket().exists());
}

#[test]
fn path_too_long_for_a_socket_is_named() {
    let path = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
    let error = Listener::bind(&path).expect_err("too long");
    assert!(matches!(error, ListenError::TooLong { .. }), "{error}");
}
