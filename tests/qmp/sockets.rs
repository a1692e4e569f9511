//! Every way to say where clients connect, with the product: each takes a client that commands the machine.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Result, ensure};
use harness::bare_guest;
use harness::deadline::{PROCESS, eventually};
use harness::qmp::Qmp;
use harness::scratch::Scratch;
use rustix::io::FdFlags;

use crate::machine::Machine;

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn chardev_and_mon_with_an_id_take_clients() -> Result<()> {
    let scratch = Scratch::new()?;
    let socket = scratch.file("mon.sock");
    let chardev = format!("socket,id=charmonitor,path={socket},server=on,wait=off");
    // As libvirt writes it.
    let arguments = [
        "-chardev",
        &chardev,
        "-mon",
        "chardev=charmonitor,id=monitor,mode=control",
    ];
    let machine = Machine::start_with(bare_guest::HALT, &arguments, scratch, socket)?;
    machine.client()?.succeed(r#"{"execute":"query-status"}"#)?;
    machine.quit()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn listening_socket_that_is_handed_over_takes_clients() -> Result<()> {
    let own = Scratch::new()?;
    let socket = own.file("handed.sock");
    let listener = UnixListener::bind(&socket)?;
    rustix::io::fcntl_setfd(&listener, FdFlags::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&listener);
    let chardev = format!("socket,id=m,fd={number},server=on,wait=off");
    let arguments = ["-chardev", &chardev, "-mon", "chardev=m,mode=control"];
    let machine = Machine::start_with(
        bare_guest::HALT,
        &arguments,
        Scratch::new()?,
        socket.clone(),
    )?;
    machine.client()?.succeed(r#"{"execute":"query-status"}"#)?;
    drop(listener);
    machine.quit()?;
    ensure!(
        std::path::Path::new(&socket).exists(),
        "a socket that the operator made is the operator's to remove"
    );
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn tcp_port_on_loopback_takes_clients() -> Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let qmp = format!("tcp:127.0.0.1:{port},server=on,wait=off");
    let machine = Machine::start(bare_guest::HALT, &["-qmp", &qmp])?;
    let connect = || TcpStream::connect(("127.0.0.1", port)).ok();
    let stream = eventually("the TCP port", PROCESS, connect)?;
    let stream = UnixStream::from(stream.as_fd().try_clone_to_owned()?);
    Qmp::over(stream)?.succeed(r#"{"execute":"query-status"}"#)?;
    machine.quit()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn text_through_socat_is_answered_line_by_line() -> Result<()> {
    let machine = Machine::start(bare_guest::HALT, &["-name", "vm1"])?;
    // What `echo ... | socat -t 5 - unix:...` does: it sends, closes its side, and reads to the end.
    let stream = machine.connect()?;
    std::io::Write::write_all(
        &mut &stream,
        b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-name\"}\n",
    )?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let text = std::io::read_to_string(&stream)?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines.len() == 3, "{text}");
    ensure!(lines[1] == r#"{"return":{}}"#, "{text}");
    ensure!(lines[2] == r#"{"return":{"name":"vm1"}}"#, "{text}");
    machine.quit()
}
