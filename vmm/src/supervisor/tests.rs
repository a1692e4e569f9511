//! The supervisor with scripts in place of the VMM and the device servers: real processes, real deadlines.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use protocol::supervisor::{ControlSocket, Received, Reply};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::config::{
    IommuBackend, LogConfig, Machine, MemoryConfig, SandboxConfig, SerialConfig, StageConfig,
};

use super::*;

mod requests;
mod servers;

const PATIENCE: Duration = Duration::from_secs(10);

/// A folder of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("bulkhead-supervisor-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("kernel"), "kernel").unwrap();
        Scratch(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Programs whose VMM is this script; it runs in the folder.
    fn programs(&self, script: &str) -> Programs {
        let vmm = self.path("vmm");
        let folder = self.0.display();
        fs::write(&vmm, format!("#!/bin/sh\ncd {folder}\n{script}\n")).unwrap();
        fs::set_permissions(&vmm, fs::Permissions::from_mode(0o700)).unwrap();
        Programs {
            vmm,
            ..Programs::find()
        }
    }

    fn config(&self, serial: Vec<SerialConfig>) -> Config {
        Config {
            machine: Machine::Q35,
            cpus: 1,
            memory: MemoryConfig {
                size_bytes: 64 << 20,
                hugetlb: None,
                mem_path: None,
                prealloc: false,
            },
            kernel: self.path("kernel"),
            initrd: None,
            append: String::new(),
            serial,
            devices: Vec::new(),
            monitors: Vec::new(),
            policy: Vec::new(),
            sandbox: sandbox_off(),
            name: None,
            no_reboot: false,
            iommu_backend: IommuBackend::Type1,
            bars_leak: false,
            metrics: None,
            log: log_config(),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sandbox_off() -> SandboxConfig {
    SandboxConfig::parse(Some("off"), None, None).unwrap()
}

fn log_config() -> LogConfig {
    LogConfig {
        format: telemetry::log::Format::Text,
        level: "info".to_owned(),
        file: None,
    }
}

fn watch(policy: Policy) -> Watch {
    let spawner = Spawner {
        programs: Programs::find(),
        log: log_config(),
        iommu_backend: IommuBackend::Type1,
        bars_leak: None,
        memory_bytes: 64 << 20,
        log_file: None,
        journal: None,
        confinement: Confinement::new(&sandbox_off()).unwrap(),
    };
    let attachments = Attachments::new(policy, spawner, Managed::new(Ok("/bin/true".into())));
    Watch::new(Signals::block().unwrap(), attachments)
}

fn receive(socket: &ControlSocket) -> (Reply, Option<OwnedFd>) {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(
        rustix::event::poll(&mut fds, Some(&timeout)),
        Ok(1),
        "no reply in time"
    );
    let received = socket.receive(true).unwrap();
    let Received::Packet(packet, fd) = received else {
        panic!("{received:?}")
    };
    (Reply::decode(&packet).unwrap(), fd)
}

#[test]
fn exit_status_of_the_vmm_becomes_ours() {
    let scratch = Scratch::new("status");
    assert_eq!(
        run(scratch.config(Vec::new()), scratch.programs("exit 7")).unwrap(),
        7
    );
}

#[test]
fn vmm_ended_by_a_signal_is_reported_as_shells_do() {
    let scratch = Scratch::new("signal");
    assert_eq!(
        run(scratch.config(Vec::new()), scratch.programs("kill -9 $$")).unwrap(),
        137
    );
}

#[test]
fn vmm_finds_what_the_stage_configuration_names_and_nothing_else() {
    let scratch = Scratch::new("stage");
    let socket = scratch.path("serial");
    let serial = vec![
        SerialConfig::Unix {
            path: socket.clone(),
            server: true,
        },
        SerialConfig::File(scratch.path("log")),
    ];
    let script = "cat <&3 >stage; for fd in /proc/$$/fd/*; do echo \"${fd##*/} $(readlink $fd)\"; done >fds; ls serial";
    assert_eq!(
        run(scratch.config(serial), scratch.programs(script)).unwrap(),
        0,
        "the socket file is there"
    );

    let stage: StageConfig =
        serde_json::from_str(&fs::read_to_string(scratch.path("stage")).unwrap()).unwrap();
    let fds = fs::read_to_string(scratch.path("fds")).unwrap();
    let link = |number: i32| {
        fds.lines()
            .find_map(|line| line.strip_prefix(&format!("{number} ")))
            .unwrap_or("none")
    };
    assert_eq!(link(stage.fds.kvm), "/dev/kvm");
    assert_eq!(
        link(stage.fds.kernel),
        scratch.path("kernel").to_str().unwrap()
    );
    assert!(link(stage.fds.serial[0].input.unwrap()).starts_with("socket:"));
    assert_eq!(
        link(stage.fds.serial[1].output.unwrap()),
        scratch.path("log").to_str().unwrap()
    );
    assert!(link(stage.fds.control.unwrap()).starts_with("socket:"));
    // The shell's own are at 10 and above, and 9 for the pipe of $(readlink).
    let ours: Vec<i32> = fds
        .lines()
        .filter(|l| !l.starts_with("9 pipe:"))
        .map(|l| l.split(' ').next().unwrap().parse().unwrap())
        .filter(|n| *n < 10)
        .collect();
    assert_eq!(ours, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(!socket.exists(), "the socket file went away with the VM");
}

#[test]
fn missing_kernel_is_one_line_and_nothing_is_started() {
    let scratch = Scratch::new("missing");
    let mut config = scratch.config(Vec::new());
    config.kernel = PathBuf::from("/no/such/kernel");
    let error = run(config, scratch.programs("touch started")).unwrap_err();
    assert!(
        one_line(&error).starts_with("-kernel /no/such/kernel: cannot be opened"),
        "{}",
        one_line(&error)
    );
    assert!(!scratch.path("started").exists());
}

#[test]
fn folder_and_empty_file_are_no_kernel() {
    let scratch = Scratch::new("empty");
    fs::write(scratch.path("empty"), "").unwrap();
    for path in [scratch.0.clone(), scratch.path("empty")] {
        let mut config = scratch.config(Vec::new());
        config.kernel = path;
        let error = run(config, scratch.programs("exit 0")).unwrap_err();
        assert!(
            one_line(&error).contains("no regular file or is empty"),
            "{}",
            one_line(&error)
        );
    }
}

/// Sends SIGTERM to this thread once the VMM's script has made its file `ready`.
fn sigterm_when_ready(scratch: &Scratch) {
    let (ready, supervisor) = (scratch.path("ready"), nix::sys::pthread::pthread_self());
    std::thread::spawn(move || {
        wait_for(|| ready.exists());
        nix::sys::pthread::pthread_kill(supervisor, nix::sys::signal::SIGTERM).unwrap();
    });
}

fn wait_for(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not in time");
        std::thread::yield_now();
    }
}

#[test]
fn sigterm_is_passed_on_to_the_vmm() {
    let scratch = Scratch::new("sigterm");
    sigterm_when_ready(&scratch);
    let programs = scratch.programs("touch ready; exec sleep 60");
    let start = Instant::now();
    assert_eq!(run(scratch.config(Vec::new()), programs).unwrap(), 143);
    assert!(start.elapsed() < deadline::VMM_STOP);
}

#[test]
fn vmm_that_ignores_sigterm_is_killed_at_its_deadline() {
    let scratch = Scratch::new("ignores");
    sigterm_when_ready(&scratch);
    let programs = scratch.programs("trap '' TERM; touch ready; while :; do sleep 1; done");
    let start = Instant::now();
    assert_eq!(run(scratch.config(Vec::new()), programs).unwrap(), 137);
    assert!(start.elapsed() >= deadline::VMM_STOP);
}

/// Not a test of its own: the supervisor that `death_of_the_supervisor_kills_the_vmm` kills.
#[test]
#[ignore = "run by death_of_the_supervisor_kills_the_vmm"]
fn supervisor_process() {
    let folder = PathBuf::from(std::env::var_os("BULKHEAD_TEST_FOLDER").unwrap());
    let scratch = std::mem::ManuallyDrop::new(Scratch(folder));
    let programs = scratch.programs("echo $$ >pid; mv pid ready; exec sleep 60");
    run(scratch.config(Vec::new()), programs).unwrap();
}

#[test]
fn death_of_the_supervisor_kills_the_vmm() {
    let scratch = Scratch::new("death");
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "supervisor::tests::supervisor_process",
        ])
        .env("BULKHEAD_TEST_FOLDER", &scratch.0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ready = scratch.path("ready");
    wait_for(|| ready.exists());
    let vmm = fs::read_to_string(&ready).unwrap().trim().to_owned();

    supervisor.kill().unwrap();
    supervisor.wait().unwrap();

    // A killed process may stay as a zombie until init reaps it: that is gone enough.
    wait_for(|| {
        !fs::read_to_string(format!("/proc/{vmm}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    });
}
