use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::RegionIndex;
use protocol::client::{Client, ClientConfig};

use super::*;
use crate::backends::test::{TestDevice, TestDeviceOptions};
use crate::server::Clients;

/// Serves one more test device; gives the client's end of its connection.
fn start(serving: &mut Serving, name: &str) -> UnixStream {
    let options = TestDeviceOptions {
        message_dma: false,
        max_dma_maps: 16,
    };
    let device = TestDevice::new(options).expect("device");
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let source = Source::from_inherited(theirs.into()).expect("a stream");
    let config = ServeConfig::new(
        (name.to_owned(), "-".to_owned()),
        false,
        Clients::new(&[], &[]),
        None,
    );
    serving
        .start(config, Box::new(device), source)
        .expect("thread");
    ours
}

fn held(threads: io::Result<Held>) -> Serving {
    let shutdown = Shutdown::new().expect("shutdown");
    Serving::new(shutdown, threads.expect("threads")).expect("serving")
}

fn serving() -> Serving {
    let serving = held(Held::start(1));
    serving.release();
    serving
}

/// REGION_WRITE of SCRATCH without reply, as bytes.
fn posted_write() -> Vec<u8> {
    let mut bytes = vec![1, 0, 10, 0, 36, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4]);
    bytes
}

#[test]
fn n09_flood_of_one_client_does_not_starve_another_device() {
    let mut serving = serving();
    let flooded = start(&mut serving, "flooded");
    let mut flood = flooded.try_clone().expect("dup");
    let client = Client::connect(flooded.into(), ClientConfig::standard()).expect("negotiate");
    let calm = start(&mut serving, "calm");
    let calm = Client::connect(calm.into(), ClientConfig::standard()).expect("negotiate");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let batch = posted_write().repeat(500);
            while !stop.load(Ordering::Relaxed) {
                flood.write_all(&batch).expect("flood");
            }
        });
        for _ in 0..200 {
            let started = Instant::now();
            calm.region_read(RegionIndex::BAR2, 0, &mut [0; 4])
                .expect("read");
            assert!(started.elapsed() < Duration::from_secs(1));
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop((client, calm));
    serving.stop(Duration::from_secs(10)).expect("all end");
}

#[test]
fn stop_ends_sessions_that_wait_for_their_client() {
    let mut serving = serving();
    let socket = start(&mut serving, "idle");
    let client = Client::connect(socket.into(), ClientConfig::standard()).expect("negotiate");
    let started = Instant::now();
    serving.stop(Duration::from_secs(10)).expect("it ends");
    assert!(started.elapsed() < Duration::from_secs(5));
    client.device_info().expect_err("the connection is over");
}

#[test]
fn wait_returns_when_the_last_client_has_gone() {
    let mut serving = serving();
    drop((start(&mut serving, "one"), start(&mut serving, "two")));
    let (never, _write_end) = rustix::pipe::pipe().expect("pipe");
    serving.wait(&never, || ());
    serving.stop(Duration::ZERO).expect("both have ended");
}

#[test]
fn error_chain_is_one_line() {
    let inner = io::Error::other("two\nlines");
    let error = ServeError::Accept {
        device: "x".into(),
        source: inner,
    };
    assert_eq!(error_chain(&error), "accept a client of x: two lines");
}

/// Whether a client hears nothing until they are released, and is served then.
fn serves_once_released(mut serving: Serving) {
    let client = start(&mut serving, "held");
    serving.wait_until_held();
    let connected =
        std::thread::spawn(|| Client::connect(client.into(), ClientConfig::standard()).is_ok());
    std::thread::yield_now();
    assert!(!connected.is_finished());
    serving.release();
    assert!(connected.join().expect("join"));
}

#[test]
fn threads_are_held_until_they_are_released() {
    serves_once_released(held(Held::start(1)));
}

#[test]
fn thread_that_is_there_before_its_device_is_held_and_serves_it() {
    let threads = Held::start(1).and_then(Held::with_a_device);
    let threads = threads.inspect(|threads| threads.name("held", "-"));
    serves_once_released(held(threads));
}
