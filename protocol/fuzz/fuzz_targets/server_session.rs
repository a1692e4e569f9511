//! A whole connection of a server: messages, parts of messages and descriptors in any order, then the end.
//! It must end, have closed every descriptor, and have answered no more than it was asked.
#![no_main]

mod stream;

use libfuzzer_sys::fuzz_target;
use protocol::messages::RegionAccess;
use protocol::server::{Connection, Event, Request, ServerConfig};
use protocol::{Command, Errno, Iova, Reply};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use stream::{message, send, steps};

const VERSION: &[u8] = b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":8,\"write_multiple\":true}}\0";

fuzz_target!(|data: &[u8]| {
    let before = stream::open_descriptors();
    let (client, server) = UnixStream::pair().expect("a socket pair");
    for step in steps(data) {
        let fds = usize::from(step.what >> 3) % 20;
        let command = u16::from(step.command);
        let bytes = match step.what & 7 {
            0 => message(0, 1, 0, 0, VERSION),
            1 => step.bytes.to_vec(),
            2 => message(1, command, 0x10, 0, step.bytes),
            3 => message(u16::from(step.what), command, 1, 0, step.bytes),
            _ => message(2, command, 0, 0, step.bytes),
        };
        send(&client, &bytes, fds);
    }
    client.shutdown(Shutdown::Write).expect("shutdown");
    serve(server);
    drop(client);
    assert_eq!(stream::open_descriptors(), before);
});

fn serve(server: UnixStream) {
    let mut config = ServerConfig::standard();
    config.deadlines.send = Duration::from_millis(1);
    config.deadlines.dma = Duration::from_millis(1);
    let mut connection = Connection::new(OwnedFd::from(server), config).expect("a stream socket");
    for _ in 0..10_000 {
        let (token, command) = match connection.next_event() {
            Event::Request(Request { token, command }) => (token, command),
            Event::Refused(_) => continue,
            Event::Closed(reason) => {
                assert!(!reason.to_string().is_empty());
                return;
            }
        };
        let zeroes = [0; 64];
        let _sent = match command {
            Command::RegionRead(access) if access.count <= 64 => connection.reply(
                token,
                Reply::RegionRead {
                    region: access.region,
                    offset: access.offset,
                    data: &zeroes[..access.count as usize],
                },
            ),
            Command::RegionWrite(write) => {
                let access = RegionAccess {
                    region: write.region,
                    offset: write.offset,
                    count: write.data.len() as u32,
                };
                if access.offset & 0xff == 0xdd {
                    let _refused = connection.dma_read(Iova(access.offset), &mut [0; 8]);
                }
                connection.reply(token, Reply::RegionWrite(access))
            }
            Command::DmaUnmap(unmap) => connection.reply(token, Reply::DmaUnmap(unmap)),
            Command::DmaMap(_) | Command::SetIrqs(_) | Command::DeviceReset => {
                connection.reply(token, Reply::Done)
            }
            _ => connection.reply(token, Reply::Error(Errno::NOTSUP)),
        };
    }
    panic!("a connection of a few messages does not end");
}
