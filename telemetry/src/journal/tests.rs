use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::device;

/// A journal of our own, and the records that it gets.
struct Receiver {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Receiver {
    fn new(name: &str) -> Receiver {
        let path =
            std::env::temp_dir().join(format!("bulkhead-journal-{}-{name}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Receiver { socket, path }
    }

    fn connected(&self) -> Journal {
        Journal::connect_to(self.path.to_str().unwrap()).unwrap()
    }

    fn record(&self) -> BTreeMap<String, String> {
        let mut bytes = vec![0; 2 * MAX_RECORD_BYTES];
        let length = self.socket.recv(&mut bytes).unwrap();
        parse(&bytes[..length])
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn parse(mut bytes: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while !bytes.is_empty() {
        let name_end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let (name, rest) = (&bytes[..name_end], &bytes[name_end + 1..]);
        let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
        let value = &rest[8..8 + length];
        assert_eq!(rest[8 + length], b'\n');
        bytes = &rest[9 + length..];
        fields.insert(
            String::from_utf8(name.to_vec()).unwrap(),
            String::from_utf8(value.to_vec()).unwrap(),
        );
    }
    fields
}

#[test]
fn record_has_the_message_the_fields_and_the_device() {
    let receiver = Receiver::new("fields");
    let log = tracing_subscriber::registry().with(receiver.connected());
    tracing::subscriber::with_default(log, || {
        let _device = device::span("net", "0000:1a:00.3").entered();
        tracing::warn!(target: "here", count = 7, ending = "two\nlines", "It \"happened\"");
    });
    let record = receiver.record();
    let expected = [
        ("BULKHEAD_COUNT", "7"),
        ("BULKHEAD_ENDING", "two\nlines"),
        ("BULKHEAD_ID", "net"),
        ("BULKHEAD_PCI", "0000:1a:00.3"),
        ("BULKHEAD_TARGET", "here"),
        ("MESSAGE", "It \"happened\""),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "bulkhead"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(record, BTreeMap::from(expected));
}

#[test]
fn value_that_is_too_long_is_cut_between_characters() {
    let receiver = Receiver::new("long");
    let log = tracing_subscriber::registry().with(receiver.connected());
    let long = "ä".repeat(MAX_RECORD_BYTES);
    tracing::subscriber::with_default(log, || tracing::error!(long, "x{long}"));
    let record = receiver.record();
    assert_eq!(record["BULKHEAD_LONG"].len(), MAX_VALUE_BYTES);
    assert_eq!(record["MESSAGE"].len(), MAX_VALUE_BYTES - 1);
    assert_eq!(record["PRIORITY"], "3");
}

#[test]
fn journal_that_does_not_read_costs_records_and_no_time() {
    let receiver = Receiver::new("full");
    let log = tracing_subscriber::registry().with(receiver.connected());
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tracing::subscriber::with_default(log, || {
            for number in 0..10_000 {
                tracing::info!(number, "nobody reads this");
            }
        });
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(receiver.record()["BULKHEAD_NUMBER"], "0");
}
