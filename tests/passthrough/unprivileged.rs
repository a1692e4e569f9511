//! The whole VM as a user without privilege, who owns the device's node and may use KVM.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use harness::deadline::PROCESS;
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::pattern::record_in_hex;
use harness::proc_files::status_of_threads;
use harness::qmp::Qmp;
use harness::scratch::Scratch;
use harness::vm::{User, Vm};

const USER: u32 = 1000;
const KVM: &str = "/dev/kvm";
/// The guest's memory, and a little more: what DMA pins.
const LOCKED_BYTES: u64 = 320 << 20;
/// What a login gives on most machines.
const USUAL_LOCKED_BYTES: u64 = 8 << 20;

const READ_BLOCK: &str = r#"
    wait_for /dev/nvme0n1
    echo "BLOCK $(block 99)"
    pause running
"#;

/// Gives the user what it needs, until it is dropped.
struct Given {
    nodes: Vec<String>,
    kvm: Permissions,
}

impl Given {
    fn to_the_user() -> Result<Given> {
        HostDevice::at(NVME).give_to_vfio()?;
        let mut nodes = vec![format!("/dev/vfio/{}", HostDevice::at(NVME).group()?)];
        if Path::new("/dev/iommu").exists() {
            nodes.push("/dev/iommu".to_owned());
            for node in fs::read_dir("/dev/vfio/devices")? {
                nodes.push(node?.path().display().to_string());
            }
        }
        for node in &nodes {
            chown(node, Some(USER), Some(USER))?;
        }
        let kvm = fs::metadata(KVM)?.permissions();
        fs::set_permissions(KVM, Permissions::from_mode(0o666))?;
        Ok(Given { nodes, kvm })
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        for node in &self.nodes {
            // One that has gone with its device is nobody's.
            let _ = chown(node, Some(0), Some(0));
        }
        let _ = fs::set_permissions(KVM, self.kvm.clone());
    }
}

fn start(locked_bytes: u64, guest: &Guest) -> Result<Vm> {
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    let words = ["-m", "256M", "-device", &device];
    let user = User {
        number: USER,
        locked_bytes,
    };
    Vm::start_as(user, &words, guest)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn user_who_owns_the_node_gives_the_guest_its_disk_in_a_full_sandbox() -> Result<()> {
    let _given = Given::to_the_user()?;
    let mut vm = start(LOCKED_BYTES, &Guest::running(READ_BLOCK))?;
    vm.wait_for_mark("running")?;
    let confined = [vec![vm.vmm_pid()?], vm.device_server_pids()?].concat();
    assert_eq!(confined.len(), 2);
    for pid in vm.all_pids()? {
        let user = status_of_threads(pid, "Uid")?.concat();
        let user: BTreeSet<&str> = user.split_whitespace().collect();
        assert_eq!(user, BTreeSet::from(["1000"]), "process {pid}");
        assert_eq!(status_of_threads(pid, "CapEff")?, ["0000000000000000"]);
        assert_eq!(status_of_threads(pid, "NoNewPrivs")?, ["1"]);
        assert_eq!(status_of_threads(pid, "Seccomp")?, ["2"]);
    }
    for pid in confined {
        for kind in ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"] {
            assert_ne!(
                fs::read_link(format!("/proc/{pid}/ns/{kind}"))?,
                fs::read_link(format!("/proc/self/ns/{kind}"))?,
                "{kind} namespace of process {pid}"
            );
        }
        assert_eq!(fs::read_dir(format!("/proc/{pid}/root/"))?.count(), 0);
    }
    vm.resume()?;
    let report = vm.finish()?.succeeded()?;
    assert_eq!(report.value("BLOCK")?, record_in_hex(99));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn user_who_owns_the_node_plugs_the_disk_into_a_server_that_waited() -> Result<()> {
    let _given = Given::to_the_user()?;
    let scratch = Scratch::new()?;
    chown(scratch.path(), Some(USER), Some(USER))?;
    let socket = scratch.file("qmp.sock");
    let (qmp, policy) = (
        format!("unix:{socket},server,nowait"),
        format!("allow-host={NVME}"),
    );
    let port = "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1";
    let words = [
        ["-m", "256M"],
        ["-qmp", &qmp],
        ["-device", port],
        ["-device-policy", &policy],
    ];
    let user = User {
        number: USER,
        locked_bytes: LOCKED_BYTES,
    };
    let mut vm = Vm::start_as(user, words.as_flattened(), &Guest::running(READ_BLOCK))?;
    let waited = vm.spare_pid()?;
    for kind in ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"] {
        assert_ne!(
            fs::read_link(format!("/proc/{waited}/ns/{kind}"))?,
            fs::read_link(format!("/proc/self/ns/{kind}"))?,
            "{kind} namespace of the server that waits"
        );
    }
    Qmp::connect(&socket)?.succeed(&format!(
        r#"{{"execute":"device_add","arguments":{{"id":"disk","driver":"vfio-pci","bus":"pcie.1","addr":"0x0","host":"{NVME}"}}}}"#
    ))?;
    ensure!(vm.device_server_pids()? == [waited], "it was taken");
    vm.wait_for_mark("running")?;
    vm.resume()?;
    let report = vm.finish()?.succeeded()?;
    assert_eq!(report.value("BLOCK")?, record_in_hex(99));
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn user_who_may_not_lock_the_guests_memory_is_told_so() -> Result<()> {
    let _given = Given::to_the_user()?;
    let mut vm = start(USUAL_LOCKED_BYTES, &Guest::running(READ_BLOCK))?;
    let status = vm.process().wait(PROCESS)?;
    let log = vm.log();
    ensure!(!status.success());
    for word in ["Attach device nvme", "RLIMIT_MEMLOCK", "ulimit -l"] {
        ensure!(log.contains(word), "{word} is not in {log}");
    }
    Ok(())
}
