//! Who is attacked: a process of root, with sockets and shared memory of the host.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use harness::scratch::Scratch;

use crate::raw_call::raw;

/// Where the attacked can be reached.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// A process that waits for input.
    pub pid: u32,
    /// An address in its memory.
    pub address: u64,
    /// A port of the loopback interface.
    pub port: u16,
    /// An abstract Unix socket.
    pub abstract_name: String,
    /// A Unix socket with a name.
    pub socket_file: String,
    /// The key of a System V segment.
    pub shared_memory_key: u64,
}

impl Target {
    /// For the environment of an attacker.
    pub(crate) fn to_words(&self) -> String {
        let Target {
            pid,
            address,
            port,
            abstract_name,
            socket_file,
            shared_memory_key,
        } = self;
        format!("{pid} {address} {port} {abstract_name} {socket_file} {shared_memory_key}")
    }

    /// The reverse.
    pub(crate) fn from_words(words: &str) -> Result<Target> {
        let words: Vec<&str> = words.split(' ').collect();
        let [pid, address, port, abstract_name, socket_file, key] = words[..] else {
            anyhow::bail!("six words say who is attacked");
        };
        Ok(Target {
            pid: pid.parse()?,
            address: address.parse()?,
            port: port.parse()?,
            abstract_name: abstract_name.to_owned(),
            socket_file: socket_file.to_owned(),
            shared_memory_key: key.parse()?,
        })
    }
}

/// The attacked; it ends with this value.
#[derive(Debug)]
pub(crate) struct Victim {
    target: Target,
    process: Child,
    segment: Option<u64>,
    _tcp: TcpListener,
    _abstract: UnixListener,
    _file: UnixListener,
    _scratch: Scratch,
}

impl Victim {
    /// Starts it.
    pub(crate) fn start() -> Result<Victim> {
        let mut process = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cat")?;
        // One that answers runs its own program: until then its stack still moves.
        let input = process.stdin.as_mut().context("its input")?;
        input.write_all(b"x")?;
        let output = process.stdout.as_mut().context("its output")?;
        output.read_exact(&mut [0])?;
        let pid = process.id();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let stack = maps.lines().find(|line| line.ends_with("[stack]"));
        let end = stack.and_then(|line| line.split(['-', ' ']).nth(1));
        let end = u64::from_str_radix(end.context("where its stack ends")?, 16)?;
        let scratch = Scratch::new()?;
        let abstract_name = format!("bulkhead-victim-{pid}");
        let socket_file = scratch.file("socket");
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let shared_memory_key = u64::from(pid) | 0x6200_0000;
        let create = u64::from((libc::IPC_CREAT | 0o600).unsigned_abs());
        let target = Target {
            pid,
            address: end - 8,
            port: tcp.local_addr()?.port(),
            abstract_name: abstract_name.clone(),
            socket_file: socket_file.clone(),
            shared_memory_key,
        };
        Ok(Victim {
            target,
            process,
            segment: raw(libc::SYS_shmget, &[shared_memory_key, 4096, create]).ok(),
            _tcp: tcp,
            _abstract: UnixListener::bind_addr(&SocketAddr::from_abstract_name(abstract_name)?)?,
            _file: UnixListener::bind(socket_file)?,
            _scratch: scratch,
        })
    }

    /// Where it can be reached.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(segment) = self.segment {
            let _ = raw(
                libc::SYS_shmctl,
                &[segment, libc::IPC_RMID.unsigned_abs().into()],
            );
        }
    }
}
