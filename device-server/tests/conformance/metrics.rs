//! What the metrics socket tells of a session.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use protocol::Errno;
use rustix::process::Signal;

use crate::lifecycle::busy_client;
use crate::support::{PATIENCE, Peer, Server};

fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("bulkhead-metrics-{name}-{}", std::process::id()))
}

fn scrape(socket: &PathBuf) -> String {
    let mut client = UnixStream::connect(socket).expect("the metrics socket");
    client.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    client
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("a request");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("# EOF\n"),
        "{answer}"
    );
    answer
}

/// The number behind `name{device="net",pci="-"...}`; `command` where it has one.
fn number(text: &str, name: &str, command: Option<&str>) -> f64 {
    let command = command
        .map(|name| format!(",command=\"{name}\""))
        .unwrap_or_default();
    let start = format!("bulkhead_server_{name}{{device=\"net\",pci=\"-\"{command}}} ");
    let found = text.lines().find_map(|line| line.strip_prefix(&start));
    let found = found.unwrap_or_else(|| panic!("{start}: {text}"));
    found.parse().expect("a number")
}

#[test]
fn session_is_counted_and_its_end_takes_back_what_it_had() {
    let path = socket("session");
    let metrics = format!("unix:{}", path.display());
    let mut server = Server::start_with(&["--id", "net", "--metrics", &metrics]);
    let mode = path
        .metadata()
        .expect("the socket's file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "others cannot connect");
    assert!(
        scrape(&path).contains("requests_total{device=\"net\",pci=\"-\",command=\"DMA_MAP\"} 0\n")
    );

    let (peer, _event) = busy_client(&server);
    peer.region_read(2, 5000, 4).failed(Errno::INVAL);
    let text = scrape(&path);
    for (name, command, expected) in [
        ("requests_total", Some("DMA_MAP"), 1.0),
        ("requests_total", Some("REGION_WRITE"), 2.0),
        ("request_errors_total", Some("REGION_READ"), 1.0),
        ("request_errors_total", Some("REGION_WRITE"), 0.0),
        (
            "request_duration_seconds_count",
            Some("DEVICE_SET_IRQS"),
            1.0,
        ),
        ("dma_maps", None, 1.0),
        ("dma_mapped_bytes", None, 8192.0),
        ("interrupts_wired", None, 1.0),
        ("client_connected", None, 1.0),
    ] {
        assert_eq!(
            number(&text, name, command),
            expected,
            "{name} {command:?}: {text}"
        );
    }
    assert!(
        number(&text, "request_duration_seconds_sum", Some("DMA_MAP")) > 0.0,
        "{text}"
    );

    let resets = number(&text, "resets_total", None);
    drop(peer);
    let give_up = Instant::now() + PATIENCE;
    while number(&scrape(&path), "client_connected", None) != 0.0 {
        assert!(Instant::now() < give_up, "the server forgets its client");
    }
    Peer::negotiated(&server).is_in_step();
    let text = scrape(&path);
    for name in ["dma_maps", "dma_mapped_bytes", "interrupts_wired"] {
        assert_eq!(number(&text, name, None), 0.0, "{name}: {text}");
    }
    assert_eq!(number(&text, "clients_total", None), 2.0, "{text}");
    assert!(number(&text, "resets_total", None) > resets, "{text}");

    server.signal(Signal::TERM);
    server.wait();
    assert!(!path.exists(), "the socket goes with the server");
}
