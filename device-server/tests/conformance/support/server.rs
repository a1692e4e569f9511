//! The server process, and what the host can see of it.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::raw_peer::unharmed::Held;
use harness::raw_peer::{PATIENCE, RawPeer};
use rustix::process::Signal;
use sandbox::prepare::{Child, ChildProcess, Ending};

/// A running `bulkhead-device-server test`. Killed on drop.
pub(crate) struct Server {
    process: ChildProcess,
    directory: PathBuf,
    socket: PathBuf,
    before: Held,
}

impl AsRef<Path> for Server {
    fn as_ref(&self) -> &Path {
        &self.socket
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Server {
    pub(crate) fn start() -> Server {
        Server::start_with(&[])
    }

    pub(crate) fn start_with(options: &[&str]) -> Server {
        Server::spawned(None, options, Vec::new())
    }

    /// A server whose log goes to a file that can be read as JSON lines.
    pub(crate) fn start_logged(log: &OwnedFd) -> Server {
        let options = ["--log-format", "json", "--log-level", "info"];
        let stderr = log.try_clone().expect("dup");
        Server::spawned(None, &options, vec![(2, stderr)])
    }

    /// A server whose one client holds the other end of `stream`.
    pub(crate) fn start_connected(stream: OwnedFd) -> Server {
        Server::spawned(Some(&["--socket-fd", "9"]), &[], vec![(9, stream)])
    }

    fn spawned(endpoint: Option<&[&str]>, options: &[&str], fds: Vec<(i32, OwnedFd)>) -> Server {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bulkhead-conformance-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for the socket");
        let socket = directory.join("x.sock");
        let listening = ["--socket", socket.to_str().expect("UTF-8")];
        let process = spawn(endpoint.unwrap_or(&listening), options, fds);
        let before = Held::by(&[process.pid().cast_unsigned()]).expect("it runs");
        Server {
            process,
            directory,
            socket,
            before,
        }
    }

    /// What follows every refusal: `peer` is in step or closed, no descriptor is left, memory is bounded, the next client is
    /// served.
    #[track_caller]
    pub(crate) fn is_unharmed_by(&self, peer: RawPeer) {
        self.before.by_server_after(&self.socket, peer);
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.socket.clone()
    }

    /// What the kernel says of the process.
    pub(crate) fn status(&self) -> String {
        let file = format!("/proc/{}/status", self.process.pid());
        std::fs::read_to_string(file).expect("the server runs")
    }

    /// Descriptors that the process has open.
    pub(crate) fn fds(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.process.pid());
        std::fs::read_dir(directory)
            .expect("the server runs")
            .count()
    }

    /// Waits until the process has exactly this many descriptors open.
    pub(crate) fn settles_at_fds(&self, expected: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.fds() != expected {
            assert!(
                Instant::now() < deadline,
                "{} descriptors, expected {expected}",
                self.fds()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the process open this many descriptors more and no further.
    pub(crate) fn allow_more_fds(&self, more: u64) {
        let most = Some(self.fds() as u64 + more);
        let limit = rustix::process::Rlimit {
            current: most,
            maximum: most,
        };
        let pid = rustix::process::Pid::from_raw(self.process.pid());
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).expect("prlimit");
    }

    /// Numbers, above standard error, of descriptors without the close-on-exec flag.
    pub(crate) fn fds_that_survive_exec(&self) -> Vec<u32> {
        let directory = format!("/proc/{}/fdinfo", self.process.pid());
        let entries = std::fs::read_dir(directory).expect("the server runs");
        let numbers = entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let info = std::fs::read_to_string(entry.path()).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            // O_CLOEXEC in octal, as /proc shows it.
            (number > 2 && flags & 0o2_000_000 == 0).then_some(number)
        });
        numbers.collect()
    }

    /// Waits until a connection is among the descriptors, beside the listening socket.
    pub(crate) fn serves_a_client(&self) {
        let directory = format!("/proc/{}/fd", self.process.pid());
        let sockets = || {
            let entries = std::fs::read_dir(&directory).expect("the server runs");
            let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            targets
                .filter(|target| target.to_string_lossy().starts_with("socket:"))
                .count()
        };
        let deadline = Instant::now() + PATIENCE;
        while sockets() < 2 {
            assert!(Instant::now() < deadline, "nobody accepts");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Resident memory in KiB, at its highest so far.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        self.status_line("VmHWM:")
    }

    fn status_line(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(path).expect("the server runs");
        let line = status
            .lines()
            .find(|line| line.starts_with(key))
            .expect("in every status file");
        line.split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok())
            .expect("a number")
    }

    /// Mappings of files whose name contains `name`.
    pub(crate) fn mappings_of(&self, name: &str) -> usize {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.process.pid()));
        maps.expect("the server runs")
            .lines()
            .filter(|line| line.contains(name))
            .count()
    }

    /// When it returns, no thread of the server runs, before it is sent SIGCONT.
    pub(crate) fn stop(&self) {
        harness::process::stop(self.process.pid().cast_unsigned()).expect("a stopped server");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal).expect("signal");
    }

    /// How the process ended.
    pub(crate) fn wait(&mut self) -> Ending {
        self.process
            .wait(PATIENCE)
            .expect("wait")
            .expect("the server ends in time")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("wait").is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill(PATIENCE);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Starts the binary and waits until it says that it is ready.
fn spawn(endpoint: &[&str], options: &[&str], fds: Vec<(i32, OwnedFd)>) -> ChildProcess {
    let (ready, child_end) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    let quiet: &[&str] = if options.contains(&"--log-level") {
        &[]
    } else {
        &["--log-level", "error"]
    };
    let args = ["test", "--ready-fd", "8"]
        .iter()
        .chain(quiet)
        .chain(endpoint)
        .chain(options)
        .map(Into::into)
        .collect();
    let program = Path::new(env!("CARGO_BIN_EXE_bulkhead-device-server"));
    let mut child = Child::new(program, args).fd(8, child_end);
    for (number, fd) in fds {
        child = child.fd(number, fd);
    }
    let process = child.spawn().expect("the server starts");
    let mut line = String::new();
    std::fs::File::from(ready)
        .read_to_string(&mut line)
        .expect("the ready line");
    assert_eq!(line, "{\"ready\":true}\n");
    process
}
