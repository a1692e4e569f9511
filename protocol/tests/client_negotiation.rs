//! The client against answers to VERSION. Names begin with the rows of conformance.md (B2) that they cover.

#![cfg(test)]

mod peers;

use peers::device::memfd;
use peers::script::{config, connect, expect_alive};
use peers::{COMMAND, Probe, REPLY, RawPeer, message, version_body};
use protocol::messages::TwinSocket;
use protocol::{
    Client, ClientError, CommandCode, DmaHandler, DmaMapFlags, Errno, Iova, IovaRange, IrqAction,
    IrqIndex, LostCause,
};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Answers VERSION with `body` and descriptors, then serves reads.
fn answered(body: Vec<u8>, fds: Vec<OwnedFd>) -> Result<Client, ClientError> {
    answered_with(config(), body, fds)
}

fn answered_with(
    config: protocol::ClientConfig,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
) -> Result<Client, ClientError> {
    let (client, _thread) = connect(config, move |peer| {
        let version = peer.recv();
        let reply = message(version.id, 1, REPLY, &body);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        peer.send_with_fds(&reply, &borrowed);
        drop(fds);
        peer.serve_reads();
    });
    client
}

fn refused(body: Vec<u8>) {
    let error = answered(body, vec![]).unwrap_err();
    let told = matches!(
        error,
        ClientError::BadAnswer {
            command: CommandCode::VERSION,
            ..
        }
    );
    assert!(told, "{error}");
}

fn capabilities(text: &str) -> Vec<u8> {
    version_body(0, 0, &format!("{{\"capabilities\":{{{text}}}}}"))
}

struct NoMemory;

impl DmaHandler for NoMemory {
    fn read(&self, _address: Iova, _data: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::FAULT)
    }

    fn write(&self, _address: Iova, _data: &[u8]) -> Result<(), Errno> {
        Err(Errno::FAULT)
    }
}

fn twin_config() -> protocol::ClientConfig {
    protocol::ClientConfig {
        dma_handler: Some(Arc::new(NoMemory)),
        ..config()
    }
}

fn twin_refused(text: &str, fds: Vec<OwnedFd>) {
    let error = answered_with(twin_config(), capabilities(text), fds).unwrap_err();
    assert!(matches!(error, ClientError::BadAnswer { .. }), "{error}");
}

#[test]
fn version_request_is_what_known_servers_take() {
    let (_client, thread) = connect(config(), |peer| {
        let version = peer.recv();
        assert_eq!((version.command, version.flags), (1, COMMAND));
        assert_eq!(version.body[..4], bytes![0u16, 1u16][..]);
        let text = String::from_utf8(version.body[4..].to_vec()).unwrap();
        let json: serde_json::Value =
            serde_json::from_str(text.strip_suffix('\0').unwrap()).unwrap();
        assert_eq!(json["capabilities"]["max_msg_fds"], 16);
        assert_eq!(json["capabilities"]["max_data_xfer_size"], 1 << 20);
        assert!(json["capabilities"].get("twin_socket").is_none());
        peer.answer(&version, &bytes![0u16, 0u16]);
    });
    thread.join().unwrap();
}

#[test]
fn c01_c02_version_that_is_not_ours_is_refused() {
    refused(version_body(1, 0, "{}"));
    refused(version_body(0, 2, "{}"));
    refused(version_body(0, 99, "{}"));
}

#[test]
fn c03_c04_answer_without_capabilities_means_the_defaults() {
    for body in [
        bytes![0u16, 0u16],
        version_body(0, 0, "{}"),
        version_body(0, 1, "{\"x\":[]}"),
    ] {
        let client = answered(body, vec![]).unwrap();
        let server = client.server_capabilities();
        assert_eq!(
            (server.max_msg_fds, server.max_data_xfer_size),
            (1, 1 << 20)
        );
        expect_alive(&client);
    }
}

#[test]
fn c05_answer_that_is_no_json_is_refused() {
    refused(vec![]);
    refused(vec![0, 0, 0]);
    refused(b"\0\0\0\0{}".to_vec());
    refused(version_body(0, 0, "{} {}"));
    refused(version_body(0, 0, "[]"));
    refused(version_body(0, 0, &"[".repeat(5000)));
    refused(version_body(
        0,
        0,
        &format!("{{\"x\":\"{}\"}}", "y".repeat(17000)),
    ));
    refused(b"\0\0\0\0{\"x\":\"\xff\"}\0".to_vec());
}

#[test]
fn c06_server_that_takes_no_descriptors_is_never_sent_any() {
    let client = answered(capabilities("\"max_msg_fds\":0"), vec![]).unwrap();
    let file = memfd(0x1000);
    let range = IovaRange::new(Iova(0), 0x1000).unwrap();
    let map = client.dma_map(range, DmaMapFlags::READ, Some((file.as_fd(), 0)));
    assert!(matches!(map, Err(ClientError::Unsendable { .. })));
    let irqs = client.set_irqs_eventfds(IrqIndex::INTX, 0, IrqAction::Trigger, &[file.as_fd()]);
    assert!(matches!(irqs, Err(ClientError::Unsendable { .. })));
    expect_alive(&client);
}

#[test]
fn c07_c08_large_values_are_clamped_and_zero_is_refused() {
    let client = answered(
        capabilities("\"max_msg_fds\":1000000000,\"max_data_xfer_size\":1099511627776"),
        vec![],
    )
    .unwrap();
    let server = client.server_capabilities();
    assert_eq!(
        (server.max_msg_fds, server.max_data_xfer_size),
        (253, 1 << 20)
    );
    let client = answered(capabilities("\"max_data_xfer_size\":3"), vec![]).unwrap();
    expect_alive(&client);
    assert_eq!(client.counters().of(CommandCode::REGION_READ), 2);
    refused(capabilities("\"max_data_xfer_size\":0"));
}

#[test]
fn c09_c10_server_that_takes_no_maps_or_no_pages_of_ours_is_refused() {
    refused(capabilities("\"max_dma_maps\":0"));
    refused(capabilities("\"pgsizes\":0"));
    refused(capabilities("\"pgsizes\":1073741824"));
    refused(capabilities("\"pgsizes\":\"4096\""));
    let client = answered(capabilities("\"max_dma_maps\":1"), vec![]).unwrap();
    let range = IovaRange::new(Iova(0), 0x1000).unwrap();
    // The script refuses maps: what counts is that this one was sent and the table is empty again.
    for _ in 0..2 {
        let refused = client.dma_map(range, DmaMapFlags::READ, None);
        assert!(matches!(refused, Err(ClientError::Refused { .. })));
    }
}

#[test]
fn c09_map_beyond_what_the_server_takes_is_not_sent() {
    let (client, thread) = connect(config(), |peer| {
        let version = peer.recv();
        peer.answer(&version, &capabilities("\"max_dma_maps\":1"));
        let map = peer.recv();
        peer.answer(&map, &[]);
        assert!(peer.try_recv().is_none());
    });
    let client = client.unwrap();
    let range = |start| IovaRange::new(Iova(start), 0x1000).unwrap();
    client.dma_map(range(0), DmaMapFlags::READ, None).unwrap();
    let second = client.dma_map(range(0x1000), DmaMapFlags::READ, None);
    assert!(matches!(second, Err(ClientError::Unsendable { .. })));
    drop(client);
    thread.join().unwrap();
}

#[test]
fn c11_c15_what_was_not_offered_is_ignored_and_its_descriptors_closed() {
    let probe = Probe::new();
    let fd = rustix::io::dup(probe.fd()).unwrap();
    let body = capabilities("\"twin_socket\":{\"supported\":true,\"fd_index\":0}");
    let client = answered(body, vec![fd]).unwrap();
    let twin = client.server_capabilities().twin_socket;
    assert_eq!(twin, TwinSocket::Unsupported);
    expect_alive(&client);
    probe.expect_closed();
}

#[test]
fn c12_c13_c14_twin_socket_that_is_none_is_refused() {
    let pipe = || Probe::new().writer.unwrap();
    let socket = || OwnedFd::from(UnixStream::pair().unwrap().0);
    twin_refused("\"twin_socket\":{\"supported\":true}", vec![socket()]);
    twin_refused(
        "\"twin_socket\":{\"supported\":true,\"fd_index\":1}",
        vec![socket()],
    );
    twin_refused(
        "\"twin_socket\":{\"supported\":true,\"fd_index\":0}",
        vec![],
    );
    for index in ["-1", "0.5", "\"0\"", "4294967296"] {
        let text = format!("\"twin_socket\":{{\"supported\":true,\"fd_index\":{index}}}");
        twin_refused(&text, vec![socket()]);
    }
    twin_refused(
        "\"twin_socket\":{\"supported\":true,\"fd_index\":0}",
        vec![pipe()],
    );
    twin_refused(
        "\"twin_socket\":{\"supported\":true,\"fd_index\":0}",
        vec![memfd(1)],
    );
}

#[test]
fn t22_request_or_another_answer_before_version_loses_the_device() {
    let firsts = [
        message(0, 11, COMMAND, &bytes![0u64, 4u64]),
        message(0, 9, REPLY, &[]),
        message(7, 1, REPLY, &version_body(0, 0, "{}")),
    ];
    for first in firsts {
        let (client, thread) = connect(config(), move |peer: &RawPeer| {
            peer.recv();
            peer.send(&first);
        });
        let error = client.unwrap_err();
        let broke = matches!(error, ClientError::Lost(LostCause::Protocol { .. }));
        assert!(broke, "{error}");
        thread.join().unwrap();
    }
}

#[test]
fn version_that_is_refused_is_the_errno() {
    let (client, thread) = connect(config(), |peer| {
        let version = peer.recv();
        peer.refuse(&version, 22);
    });
    assert_eq!(
        client.unwrap_err(),
        ClientError::Refused {
            command: CommandCode::VERSION,
            errno: Errno::INVAL
        }
    );
    thread.join().unwrap();
}
