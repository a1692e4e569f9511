use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::{Interrupt, SerialPort, SerialWire};
use crate::address_space::Trap;
use crate::event_loop::EventLoop;

fn port(wire: SerialWire) -> Arc<SerialPort> {
    let interrupt = Interrupt(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    Arc::new(SerialPort::new(wire, interrupt, Instant::now()).unwrap())
}

/// Runs the loop until nothing has happened for a moment.
fn run_until_quiet(events: &Arc<EventLoop>) {
    let other = Arc::clone(events);
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        other.stop();
    });
    events.run().unwrap();
    stopper.join().unwrap();
}

fn received(port: &SerialPort) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut status, mut byte) = ([0], [0]);
    port.read(5, &mut status);
    while status[0] & 1 != 0 {
        port.read(0, &mut byte);
        bytes.push(byte[0]);
        port.read(5, &mut status);
    }
    bytes
}

#[test]
fn written_bytes_go_to_the_file() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let port = port(SerialWire::File(writer));
    port.write(0, b"h");
    port.write(0, b"i");
    let mut seen = [0; 2];
    rustix::io::read(&reader, &mut seen).unwrap();
    assert_eq!(&seen, b"hi");
}

#[test]
fn reader_that_stands_still_loses_bytes_and_input_goes_on() {
    const FULL: usize = 64 << 10;
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (typed, keyboard) = rustix::pipe::pipe().unwrap();
    let port = port(SerialWire::Stdio {
        input: typed,
        output: writer,
    });
    let events = Arc::new(EventLoop::new().unwrap());
    port.watch(&events, Arc::new(|| ())).unwrap();
    let guest = {
        let port = Arc::clone(&port);
        std::thread::spawn(move || (0..2 * FULL).for_each(|_| port.write(0, b"x")))
    };
    rustix::io::write(&keyboard, b"typed").unwrap();
    run_until_quiet(&events);
    assert_eq!(received(&port), b"typed");
    guest.join().unwrap();
    let mut held = vec![0; 2 * FULL];
    let held = rustix::io::read(&reader, held.as_mut_slice()).unwrap();
    assert!((1..=FULL).contains(&held), "{held} bytes");
    port.write(0, b"y");
    let mut seen = [0; 2];
    assert_eq!(rustix::io::read(&reader, &mut seen).unwrap(), 1);
    assert_eq!(seen[0], b'y');
}

#[test]
fn input_longer_than_the_buffer_arrives_whole() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (_keep, output) = rustix::pipe::pipe().unwrap();
    let port = port(SerialWire::Stdio {
        input: reader,
        output,
    });
    let events = Arc::new(EventLoop::new().unwrap());
    port.watch(&events, Arc::new(|| ())).unwrap();
    let sent: Vec<u8> = (0..200).collect();
    rustix::io::write(&writer, &sent).unwrap();
    let mut seen = Vec::new();
    for _ in 0..10 {
        run_until_quiet(&events);
        seen.extend(received(&port));
    }
    assert_eq!(seen, sent);
}

#[test]
fn end_of_standard_input_is_not_watched_again() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (_keep, output) = rustix::pipe::pipe().unwrap();
    let port = port(SerialWire::Stdio {
        input: reader,
        output,
    });
    let events = Arc::new(EventLoop::new().unwrap());
    port.watch(&events, Arc::new(|| ())).unwrap();
    drop(writer);
    run_until_quiet(&events);
    assert!(port.input.lock().unwrap().watched.is_none());
}

#[test]
fn socket_port_serves_one_client_after_the_other() {
    let directory = std::env::temp_dir().join(format!("bulkhead-serial-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("com1");
    let listener = UnixListener::bind(&path).unwrap();
    let port = port(SerialWire::from_socket(listener.into()).unwrap());
    let events = Arc::new(EventLoop::new().unwrap());
    port.watch(&events, Arc::new(|| ())).unwrap();
    for name in [b"one", b"two"] {
        let mut client = UnixStream::connect(&path).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        client.write_all(name).unwrap();
        run_until_quiet(&events);
        assert_eq!(received(&port), name);
        name.iter().for_each(|byte| port.write(0, &[*byte]));
        let mut seen = [0; 3];
        client.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, name);
        drop(client);
        run_until_quiet(&events);
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn output_without_a_client_is_dropped() {
    let (stream, client) = UnixStream::pair().unwrap();
    let port = port(SerialWire::from_socket(stream.into()).unwrap());
    drop(client);
    port.write(0, b"x");
    port.write(0, b"y");
}

#[test]
fn reset_forgets_what_was_typed_and_enabled() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (_keep, output) = rustix::pipe::pipe().unwrap();
    let port = port(SerialWire::Stdio {
        input: reader,
        output,
    });
    let events = Arc::new(EventLoop::new().unwrap());
    port.watch(&events, Arc::new(|| ())).unwrap();
    rustix::io::write(&writer, b"typed").unwrap();
    run_until_quiet(&events);
    port.write(1, &[0x0f]);
    port.reset();
    let mut enabled = [0xff];
    port.read(1, &mut enabled);
    assert_eq!((received(&port), enabled), (vec![], [0]));
}
