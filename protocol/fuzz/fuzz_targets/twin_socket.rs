//! A connection with a twin socket, either side: messages and parts of messages on both sockets, then the end of both.
//! It must end, have closed every descriptor, and have touched no memory that was not mapped.
#![no_main]

mod stream;

use libfuzzer_sys::fuzz_target;
use protocol::messages::{RegionAccess, TwinSocket};
use protocol::server::{Connection, Event, Request, ServerConfig};
use protocol::{
    Client, ClientConfig, ClientError, Command, DmaHandler, DmaMapFlags, Errno, Iova, IovaRange,
    RegionIndex, Reply,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use stream::{Step, message, send, send_with, steps};

const OFFER: &[u8] =
    b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":1,\"twin_socket\":{\"supported\":true}}}\0";
const ANSWER: &[u8] =
    b"\0\0\0\0{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}\0";

/// All that the client waits for has been sent before, or ends with the socket: only a machine that is too busy meets this.
const CLIENT_DEADLINE: Duration = Duration::from_secs(60);

fuzz_target!(|data: &[u8]| {
    let before = stream::open_descriptors();
    match data.split_first() {
        Some((0..0x80, script)) => torment_server(script),
        Some((_, script)) => torment_client(script),
        None => {}
    }
    assert_eq!(stream::open_descriptors(), before);
});

/// Writes the script: the top bit of a step picks the twin.
fn play(script: &[u8], main: &UnixStream, twin: &UnixStream) {
    let mut id = 0;
    for Step {
        what,
        command,
        bytes,
    } in steps(script)
    {
        let socket = if what & 0x80 != 0 { twin } else { main };
        let fds = usize::from(what >> 3 & 0x0f) % 3;
        let bytes = match what & 7 {
            0 => bytes.to_vec(),
            1 => message(u16::from(command), 12, 0, 0, bytes),
            2 => message(u16::from(command), 11, 1, 0, bytes),
            3 => message(id, u16::from(command), 0x21, 14, bytes),
            4 => message(id, u16::from(command), 0, 0, bytes),
            _ => {
                id += 1;
                message(id - 1, u16::from(command), 1, 0, bytes)
            }
        };
        send(socket, &bytes, fds);
    }
    for socket in [main, twin] {
        socket.shutdown(Shutdown::Write).expect("shutdown");
    }
}

fn torment_server(script: &[u8]) {
    let (client, server) = UnixStream::pair().expect("a socket pair");
    send(&client, &message(0, 1, 0, 0, OFFER), 0);
    // Its first event is this request: VERSION has been answered by then.
    send(&client, &message(1, 13, 0, 0, &[]), 0);
    let mut config = ServerConfig::standard();
    config.capabilities.twin_socket = TwinSocket::Supported;
    config.deadlines.send = Duration::from_millis(1);
    config.deadlines.dma = Duration::from_millis(1);
    let mut connection = Connection::new(OwnedFd::from(server), config).expect("a stream socket");
    let Event::Request(Request { token, .. }) = connection.next_event() else {
        panic!("the reset is a good request");
    };
    connection.reply(token, Reply::Done).expect("there is room");
    let twin = twin_of(&client);
    play(script, &client, &twin);
    for _ in 0..10_000 {
        let (token, command) = match connection.next_event() {
            Event::Request(Request { token, command }) => (token, command),
            Event::Refused(_) => continue,
            Event::Closed(_) => return,
        };
        let _sent = match command {
            Command::RegionWrite(write) => {
                let access = RegionAccess {
                    region: write.region,
                    offset: write.offset,
                    count: write.data.len() as u32,
                };
                let mut data = [0; 8];
                let _refused = connection.dma_read(Iova(0x1000), &mut data);
                let _refused = connection.dma_write(Iova(0x1000), &data);
                connection.reply(token, Reply::RegionWrite(access))
            }
            _ => connection.reply(token, Reply::Error(Errno::NOTSUP)),
        };
    }
    panic!("a connection of a few messages does not end");
}

/// The descriptor in the answer to VERSION.
fn twin_of(client: &UnixStream) -> UnixStream {
    let mut bytes = [0; 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(client, &mut slices, &mut control, flags).expect("the answer");
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.next().expect("a twin").into()
}

/// One page from 0x1000 on.
struct Page;

impl DmaHandler for Page {
    fn read(&self, address: Iova, data: &mut [u8]) -> Result<(), Errno> {
        assert!(address.0 >= 0x1000 && address.0 + data.len() as u64 <= 0x2000);
        data.fill(0);
        Ok(())
    }

    fn write(&self, address: Iova, data: &[u8]) -> Result<(), Errno> {
        assert!(address.0 >= 0x1000 && address.0 + data.len() as u64 <= 0x2000);
        Ok(())
    }
}

fn torment_client(script: &[u8]) {
    let (ours, server) = UnixStream::pair().expect("a socket pair");
    let (twin, theirs) = UnixStream::pair().expect("a socket pair");
    send_with(&server, &message(0, 1, 1, 0, ANSWER), &[theirs.as_fd()]);
    drop(theirs);
    play(script, &server, &twin);
    let config = ClientConfig {
        dma_handler: Some(Arc::new(Page)),
        access_deadline: CLIENT_DEADLINE,
        reset_deadline: CLIENT_DEADLINE,
        ..ClientConfig::standard()
    };
    let client = Client::connect(ours.into(), config).expect("a good answer");
    if drive(&client).is_err() && client.lost().is_some() {
        assert!(matches!(client.reset(), Err(ClientError::Lost(_))));
    }
}

fn drive(client: &Client) -> Result<(), ClientError> {
    let page = IovaRange::new(Iova(0x1000), 0x1000).expect("a page");
    client.dma_map(page, DmaMapFlags::READ_WRITE, None)?;
    client.service()?;
    client.region_read(RegionIndex::BAR0, 0, &mut [0; 4])?;
    client.region_write(RegionIndex::BAR0, 0, &[0; 4])?;
    client.service()?;
    client.dma_unmap(page)
}
