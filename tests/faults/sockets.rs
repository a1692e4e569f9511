//! vfio-user sockets behind which there is no device server.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::Result;
use harness::raw_peer::RawPeer;
use harness::refusal::{self, Refusal};
use harness::scratch::Scratch;

const AT_ONCE: Duration = Duration::from_secs(1);
/// The VMM gives a server 5 s to answer VERSION (`protocol/src/limits.rs`).
const ACCESS_DEADLINE: Duration = Duration::from_secs(7);

fn vmm_with_socket(socket: &str) -> Result<Refusal> {
    let kernel = std::env::var("LAB_GUEST_KERNEL")?;
    let device = format!("vfio-user-pci,socket={socket},id=net,bus=pcie.0,addr=0x3");
    refusal::of_vmm(&[
        "-machine", "q35", "-m", "512M", "-kernel", &kernel, "-serial", "none", "-device", &device,
    ])
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn socket_that_does_not_exist_is_refused() -> Result<()> {
    let scratch = Scratch::new()?;
    let socket = scratch.file("none.sock");
    vmm_with_socket(&socket)?
        .names(&[&socket])?
        .within(AT_ONCE)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn socket_nobody_listens_on_is_refused() -> Result<()> {
    let scratch = Scratch::new()?;
    let socket = scratch.file("stale.sock");
    drop(UnixListener::bind(&socket)?);
    vmm_with_socket(&socket)?
        .names(&[&socket])?
        .within(AT_ONCE)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_that_speaks_something_else_is_refused() -> Result<()> {
    let scratch = Scratch::new()?;
    let socket = scratch.file("http.sock");
    let answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    let server = RawPeer::listen(&socket, |client| {
        client.send(answer);
        Ok(())
    })?;
    vmm_with_socket(&socket)?.names(&["net"])?.within(AT_ONCE)?;
    server.result()
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_that_says_nothing_is_refused_at_the_deadline() -> Result<()> {
    let scratch = Scratch::new()?;
    let socket = scratch.file("silent.sock");
    let server = RawPeer::listen(&socket, |client| {
        Ok((&client.stream).read_to_end(&mut Vec::new())?)
    })?;
    vmm_with_socket(&socket)?
        .names(&["net"])?
        .within(ACCESS_DEADLINE)?;
    assert!(server.result()? > 16, "the VMM said VERSION");
    Ok(())
}
