use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use prometheus_client::metrics::counter::Counter;

use super::*;

/// An exporter that runs, with one counter that stands at 7.
struct Running {
    path: PathBuf,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(name: &str) -> Running {
        let path =
            std::env::temp_dir().join(format!("bulkhead-metrics-{}-{name}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        counter.inc_by(7);
        registry.register("things", "Things that happened", counter);
        let clients = Clients {
            may_come: || true,
            adopt: |socket| Box::new(UnixStream::from(socket)),
        };
        let exporter = Exporter::new(listener.into(), registry, clients).unwrap();
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let stopped = stop.try_clone().unwrap();
        let thread = std::thread::spawn(move || exporter.serve(stopped));
        Running {
            path,
            stop,
            thread: Some(thread),
        }
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(&self.path).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        client
    }

    fn ask(&self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).unwrap();
        let thread = self.thread.take().unwrap();
        let gone = Instant::now() + Duration::from_secs(20);
        while !thread.is_finished() && Instant::now() < gone {
            std::thread::yield_now();
        }
        let finished = thread.is_finished();
        let _ = std::fs::remove_file(&self.path);
        assert!(
            finished || std::thread::panicking(),
            "the exporter stops when it is told to"
        );
    }
}

#[test]
fn request_is_answered_in_open_metrics() {
    let running = Running::start("answer");
    for path in ["/metrics", "/"] {
        let answer = running.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("Content-Type: application/openmetrics-text; version=1.0.0"),
            "{head}"
        );
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        assert_eq!(
            body,
            "# HELP things Things that happened.\n# TYPE things counter\nthings_total 7\n# EOF\n"
        );
    }
}

#[test]
fn other_requests_get_no_metrics() {
    let running = Running::start("other");
    for request in [
        "POST /metrics HTTP/1.1\r\n\r\n",
        "GET /secrets HTTP/1.1\r\n\r\n",
        "\r\n\r\n",
    ] {
        let answer = running.ask(request);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{request}: {answer}");
    }
}

#[test]
fn client_that_sends_too_much_is_dropped() {
    let running = Running::start("much");
    let mut client = running.connect();
    let junk = vec![b'x'; MAX_REQUEST_BYTES + 1];
    // The other end may be closed before all is written.
    let _ = client.write_all(&junk);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    assert!(
        running
            .ask("GET /metrics HTTP/1.1\r\n\r\n")
            .ends_with("# EOF\n")
    );
}

#[test]
fn silent_client_holds_others_up_for_its_patience_only() {
    let running = Running::start("silent");
    let _silent = running.connect();
    let start = Instant::now();
    assert!(
        running
            .ask("GET /metrics HTTP/1.1\r\n\r\n")
            .ends_with("# EOF\n")
    );
    assert!(start.elapsed() < PATIENCE * 3);
}

#[test]
fn silent_client_does_not_keep_the_process_from_ending() {
    let running = Running::start("stop");
    let _silent = running.connect();
    drop(running);
}

#[test]
fn socket_is_named_with_its_kind() {
    assert_eq!(socket_path("unix:/run/x").unwrap(), PathBuf::from("/run/x"));
    for wrong in ["unix:", "/run/x", "tcp:1"] {
        assert!(socket_path(wrong).unwrap_err().contains("unix:PATH"));
    }
}
