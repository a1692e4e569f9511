//! Sockets to anybody but those that the process was given.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use rustix::net::{AddressFamily, SocketType, ipproto};

use super::{Attempt, Scene};
use crate::layers::Layer::{Capabilities, Filter, Net, Root, User};

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new("make a network socket", make_socket, &[Filter]),
    Attempt::new(
        "connect to a service of the host",
        connect_tcp,
        &[Filter, Net],
    ),
    Attempt::new(
        "connect to an abstract socket",
        connect_abstract,
        &[Filter, Net],
    ),
    Attempt::new("connect to a socket file", connect_file, &[Filter, Root]),
    Attempt::new("listen", listen, &[Filter]),
    Attempt::new(
        "read the network's packets",
        read_packets,
        &[Filter, User, Capabilities],
    ),
    Attempt::new("ask for routes", ask_for_routes, &[Filter]),
];

fn make_socket(_: &Scene) -> io::Result<()> {
    rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(())
}

fn connect_tcp(scene: &Scene) -> io::Result<()> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, scene.target.port)).map(drop)
}

fn connect_abstract(scene: &Scene) -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(&scene.target.abstract_name)?;
    UnixStream::connect_addr(&address).map(drop)
}

fn connect_file(scene: &Scene) -> io::Result<()> {
    UnixStream::connect(&scene.target.socket_file).map(drop)
}

fn listen(_: &Scene) -> io::Result<()> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map(drop)
}

fn read_packets(_: &Scene) -> io::Result<()> {
    rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
    Ok(())
}

fn ask_for_routes(_: &Scene) -> io::Result<()> {
    rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    Ok(())
}
