use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::errors::QmpError;
use super::super::machine::{
    After, BootControl, BootRequest, Cpu, Devices, Inventory, RunControl, RunState,
};
use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// A machine that runs and has nothing in it.
struct Idle;

impl RunControl for Idle {
    fn state(&self) -> RunState {
        RunState::Running
    }
    fn stop(&self) -> Result<(), QmpError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), QmpError> {
        Ok(())
    }
    fn reset(&self) -> Result<After, QmpError> {
        Ok(Box::new(|| ()))
    }
    fn power_down(&self) -> Result<(), QmpError> {
        Ok(())
    }
    fn quit(&self) -> After {
        Box::new(|| ())
    }
}

impl Inventory for Idle {
    fn name(&self) -> Option<String> {
        Some("idle".to_owned())
    }
    fn cpus(&self) -> Vec<Cpu> {
        Vec::new()
    }
    fn memory_bytes(&self) -> u64 {
        0
    }
    fn kvm(&self) -> Value {
        json!({"enabled": true, "present": true, "memory-slots": 2, "interrupt-routes": 0})
    }

    fn pci(&self) -> Value {
        json!([])
    }
    fn slots(&self) -> Value {
        json!([])
    }
    fn vfio_user(&self) -> Value {
        json!([])
    }
    fn sandbox(&self) -> Value {
        json!({})
    }
}

impl Devices for Idle {
    fn add(&self, _: Map<String, Value>) -> Result<(), QmpError> {
        Ok(())
    }
    fn remove(&self, id: &str, _: bool) -> Result<After, QmpError> {
        Err(QmpError::unknown_device(id))
    }
}

struct Peer {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Peer {
    /// Connects and reads the greeting.
    fn connect(path: &std::path::Path) -> Peer {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut peer = Peer {
            lines: BufReader::new(stream.try_clone().unwrap()),
            stream,
        };
        assert!(peer.read().get("QMP").is_some());
        peer
    }

    fn negotiated(path: &std::path::Path) -> Peer {
        let mut peer = Peer::connect(path);
        peer.write(br#"{"execute":"qmp_capabilities"}"#);
        assert_eq!(peer.read(), json!({"return": {}}));
        peer
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl BootControl for Idle {
    fn choose(&self, _: BootRequest) -> Result<(), QmpError> {
        Ok(())
    }
    fn describe(&self) -> Value {
        json!({})
    }
}

/// Adding a device takes until the test says so.
struct Slow(Mutex<Receiver<()>>);

impl Devices for Slow {
    fn add(&self, _: Map<String, Value>) -> Result<(), QmpError> {
        let enough = self.0.lock().unwrap().recv_timeout(DEADLINE);
        enough.map_err(|_| QmpError::generic("nobody let it end"))
    }
    fn remove(&self, _: &str, _: bool) -> Result<After, QmpError> {
        Ok(Box::new(|| ()))
    }
}

fn serve(name: &str) -> (Server, std::path::PathBuf) {
    serve_with(name, Arc::new(Idle))
}

fn serve_with(name: &str, devices: Arc<dyn Devices>) -> (Server, std::path::PathBuf) {
    let path = std::env::temp_dir().join(format!("bulkhead-qmp-{name}-{}", std::process::id()));
    let _stale = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let (server, queue) = Server::new().unwrap();
    let context = Context {
        control: Arc::new(Idle),
        inventory: Arc::new(Idle),
        devices,
        boot: Arc::new(Idle),
    };
    server.start(&Threads::free(), queue, context).unwrap();
    server.listen(vec![listener.into()]).unwrap();
    (server, path)
}

#[test]
fn two_clients_are_served_at_once_and_both_get_events() {
    let (server, path) = serve("two");
    let (mut first, mut second) = (Peer::negotiated(&path), Peer::negotiated(&path));
    second.write(br#"{"execute":"query-name","id":"b"}"#);
    first.write(br#"{"execute":"query-name","id":"a"}"#);
    assert_eq!(first.read(), json!({"return": {"name": "idle"}, "id": "a"}));
    assert_eq!(
        second.read(),
        json!({"return": {"name": "idle"}, "id": "b"})
    );
    server.send(&Event::Stop);
    assert_eq!(first.read()["event"], "STOP");
    assert_eq!(second.read()["event"], "STOP");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn slow_device_add_delays_its_own_client_and_nobody_else() {
    let (end, wait) = channel();
    let (_server, path) = serve_with("lanes", Arc::new(Slow(Mutex::new(wait))));
    let (mut adding, mut other) = (Peer::negotiated(&path), Peer::negotiated(&path));
    adding.write(br#"{"execute":"device_add","arguments":{"driver":"x"},"id":1}"#);
    adding.write(br#"{"execute":"query-name","id":2}"#);
    for command in ["stop", "cont", "query-status", "quit"] {
        other.write(format!(r#"{{"execute":"{command}","id":"{command}"}}"#).as_bytes());
        assert_eq!(other.read()["id"], command);
    }
    adding.stream.set_nonblocking(true).unwrap();
    let early = adding.lines.fill_buf().unwrap_err();
    assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
    adding.stream.set_nonblocking(false).unwrap();
    end.send(()).unwrap();
    assert_eq!(adding.read(), json!({"return": {}, "id": 1}));
    assert_eq!(adding.read()["id"], 2);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn client_that_half_closes_is_answered_and_then_closed() {
    let (_server, path) = serve("half");
    let mut peer = Peer::connect(&path);
    peer.write(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n");
    peer.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(peer.read(), json!({"return": {}}));
    assert_eq!(peer.read()["return"]["status"], "running");
    let mut rest = String::new();
    assert_eq!(peer.lines.read_line(&mut rest).unwrap(), 0);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn client_that_never_reads_is_dropped_and_the_other_is_served() {
    let (server, path) = serve("slow");
    let (slow, mut other) = (Peer::negotiated(&path), Peer::negotiated(&path));
    let lost = Event::DeviceLost {
        device: "x".repeat(1000),
        cause: "test".to_owned(),
    };
    for _ in 0..4000 {
        server.send(&lost);
        assert_eq!(other.read()["event"], "BULKHEAD_DEVICE_LOST");
    }
    assert_eq!(
        server.shared.lock().by_id.len(),
        1,
        "the client that does not read is gone"
    );
    drop(slow);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn seventeenth_client_is_closed() {
    let (_server, path) = serve("many");
    let _clients: Vec<Peer> = (0..MAX_CLIENTS).map(|_| Peer::negotiated(&path)).collect();
    let turned_away = UnixStream::connect(&path).unwrap();
    turned_away.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut line = String::new();
    assert_eq!(BufReader::new(turned_away).read_line(&mut line).unwrap(), 0);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn junk_is_answered_piece_by_piece_and_the_request_behind_it_is_served() {
    let (_server, path) = serve("junk");
    let mut peer = Peer::negotiated(&path);
    let mut writer = peer.stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        // More than fits into the buffers of both sides, in answers too.
        writer.write_all(&b"]".repeat(20_000)).unwrap();
        let junk = b"[{]}\"\\ \xff\x00 nonsense {{{{".repeat(1000);
        writer.write_all(&junk).unwrap();
        writer
            .write_all(b"\x00{\"execute\":\"query-name\",\"id\":\"last\"}")
            .unwrap();
    });
    let mut errors = 0;
    loop {
        let answer = peer.read();
        if answer["id"] == "last" {
            break;
        }
        assert_eq!(answer["error"]["class"], "GenericError", "{answer}");
        errors += 1;
    }
    assert!(errors > 20_000);
    sending.join().unwrap();
    std::fs::remove_file(path).unwrap();
}
