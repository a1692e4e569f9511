//! What the shipped processes are held to while the guest uses the device, beside the tables of their roles: the system call
//! filters that the kernel has for each thread, and the descriptors that each process holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::RawFd;

use anyhow::{Context, Result, ensure};
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::installed_filters::{self, Instruction};
use harness::qmp::Qmp;
use harness::scratch::Scratch;
use harness::vm::Vm;
use sandbox::mechanisms::seccomp::{self, Arg};
use sandbox::roles::vfio::{self, IommuDescriptor, Renewal, VfioDescriptors};
use sandbox::roles::vmm::{self, Thread};
use sandbox::roles::{Calls, supervisor};

use crate::isolation::vm_with;

/// Descriptors of the VMM's start have numbers below this (vmm/src/run/inherited.rs).
const LATE_FDS: RawFd = 512;

/// What the standard streams may be, and what every process has of its own.
const EVERYBODY: [&str; 5] = [
    "/dev/null",
    "pipe:",
    "socket:",
    "anon_inode:[eventfd]",
    "anon_inode:[signalfd]",
];
/// The guest, its memory, its program, its events.
const VMM: [&str; 6] = [
    "/dev/kvm",
    "anon_inode:kvm-vm",
    "anon_inode:kvm-vcpu",
    "anon_inode:[eventpoll]",
    "anon_inode:[timerfd]",
    "/memfd:",
];
/// Its group and device, by either way.
const SERVER: [&str; 3] = ["/dev/vfio/", "/dev/iommu", "anon_inode:[vfio-device]"];
/// Processes and their ends.
const SUPERVISOR: [&str; 1] = ["anon_inode:[pidfd]"];

/// A thread of the kernel's KVM, which newer kernels list among those of the VM's process. It never runs code of the process.
const KERNELS_OWN: &str = "kvm-nx-lpage-re";

type Program = Vec<Instruction>;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn filters_and_descriptors_of_all_processes_are_those_of_their_roles() -> Result<()> {
    let mut vm = vm_with(&[], "")?;
    let vmm = vm.vmm_pid()?;
    let servers = vm.device_server_pids()?;
    let refused = compiled(seccomp::refuse(&supervisor::refused())?);
    for pid in vm.all_pids()? {
        if pid == vmm {
            check_descriptors("VMM", pid, &VMM)?;
            check_vmm(pid, &refused)?;
        } else if servers.contains(&pid) {
            check_descriptors("device server", pid, &SERVER)?;
            check_server(pid, &refused, Opened::BeforeItsSandbox)?;
        } else {
            check_descriptors("supervisor", pid, &SUPERVISOR)?;
            for (name, _, filters) in threads(pid)? {
                ensure!(filters == [refused.clone()], "supervisor, thread {name}");
            }
        }
    }
    vm.resume()?;
    vm.finish()?.succeeded()?;
    Ok(())
}

/// Its filter is made before it has descriptors, for the numbers that they will have.
#[test]
#[ignore = "runs in the lab: scripts/test"]
fn filters_of_a_server_that_waited_for_its_device_are_those_of_its_role() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let scratch = Scratch::new()?;
    let socket = scratch.file("qmp.sock");
    let (qmp, policy) = (
        format!("unix:{socket},server,nowait"),
        format!("allow-host={NVME}"),
    );
    let arguments = [
        ["-m", "256M"],
        ["-qmp", &qmp],
        [
            "-device",
            "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1",
        ],
        ["-device-policy", &policy],
    ];
    let mut vm = Vm::start(arguments.as_flattened(), &Guest::running("pause booted"))?;
    vm.wait_for_mark("booted")?;
    let waited = vm.spare_pid()?;
    check_descriptors("server that waits", waited, &[])?;
    Qmp::connect(&socket)?.succeed(&format!(
        r#"{{"execute":"device_add","arguments":{{"id":"disk","driver":"vfio-pci","bus":"pcie.1","addr":"0x0","host":"{NVME}"}}}}"#
    ))?;
    ensure!(vm.device_server_pids()? == [waited], "it was taken");
    check_descriptors("device server", waited, &SERVER)?;
    let refused = compiled(seccomp::refuse(&supervisor::refused())?);
    check_server(waited, &refused, Opened::WithinItsSandbox)?;
    vm.resume()?;
    vm.finish()?.succeeded()?;
    Ok(())
}

/// The table of each thread's kind, all with one number that descriptors of the start have not reached.
fn check_vmm(pid: u32, refused: &Program) -> Result<()> {
    let own = own_pid(pid)?;
    let mut kinds = BTreeSet::new();
    let mut fitting: BTreeSet<RawFd> = (1..=first_free(pid)?).collect();
    for (name, is_main, filters) in threads(pid)? {
        let kind = if is_main { Thread::Main } else { kind(&name)? };
        let mut fits = BTreeSet::new();
        for late in fitting {
            if programs(refused, vmm::calls(kind, late), own)? == filters {
                fits.insert(late);
            }
        }
        ensure!(
            !fits.is_empty(),
            "VMM, thread {name}: its filters, of {:?} instructions, are not the table of {kind:?}",
            lengths(&filters)
        );
        fitting = fits;
        kinds.insert(kind);
    }
    assert_eq!(fitting.len(), 1, "{fitting:?}");
    let without = [Thread::Metrics];
    let all: BTreeSet<Thread> = Thread::ALL
        .into_iter()
        .filter(|kind| !without.contains(kind))
        .collect();
    assert_eq!(kinds, all, "threads of the VMM");
    Ok(())
}

/// When the device of a server is opened, where that is through its group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    BeforeItsSandbox,
    WithinItsSandbox,
}

/// One table for all threads. Of several copies of a descriptor one is in it.
fn check_server(pid: u32, refused: &Program, opened: Opened) -> Result<()> {
    let held = descriptors(pid)?;
    let numbers = |what: &str| -> Vec<RawFd> {
        let of_it = held.iter().filter(|(_, target)| target.starts_with(what));
        of_it.map(|(number, _)| *number).collect()
    };
    let devices = [
        numbers("anon_inode:[vfio-device]"),
        numbers("/dev/vfio/devices/"),
    ]
    .concat();
    let renewals: Vec<Renewal> = match opened {
        Opened::BeforeItsSandbox => vec![Renewal::Never],
        Opened::WithinItsSandbox => {
            let is_group = |target: &str| {
                let group = target.strip_prefix("/dev/vfio/");
                group.is_some_and(|group| group.parse::<u32>().is_ok())
            };
            let groups = held.iter().filter(|(_, target)| is_group(target));
            groups.map(|(number, _)| Renewal::Once(*number)).collect()
        }
    };
    let type1 = numbers("/dev/vfio/vfio").into_iter().flat_map(|number| {
        renewals
            .iter()
            .map(move |renewal| (IommuDescriptor::Type1(number), *renewal))
    });
    let iommufd = numbers("/dev/iommu")
        .into_iter()
        .map(|number| (IommuDescriptor::Iommufd(number), Renewal::Never));
    let own = own_pid(pid)?;
    let mut possible = Vec::new();
    for (iommu, renewal) in type1.chain(iommufd) {
        for device in &devices {
            let descriptors = VfioDescriptors {
                devices: vec![*device],
                iommu,
                renewal,
            };
            let role = vfio::role(&descriptors, None, false, Vec::new());
            possible.push(programs(refused, role.calls, own)?);
        }
    }
    for (name, _, filters) in threads(pid)? {
        ensure!(
            possible.contains(&filters),
            "device server, thread {name}: its filters have {:?} instructions; with its descriptors, {held:#?}, they would be {:?}",
            lengths(&filters),
            possible.iter().map(|one| lengths(one)).collect::<Vec<_>>()
        );
    }
    Ok(())
}

/// What a process of this table has, the oldest filter first. A table names its own process by the number that it has there.
fn programs(inherited: &Program, mut calls: Calls, own: u32) -> Result<Vec<Program>> {
    for rule in &mut calls.rules {
        if rule.syscall == libc::SYS_tgkill {
            rule.arguments = vec![(0, Arg::Equals(own.into()))];
        }
    }
    Ok(vec![
        inherited.clone(),
        compiled(seccomp::refuse(&calls.refused)?),
        compiled(seccomp::allow_only(&calls.rules)?),
    ])
}

fn compiled(program: seccomp::Program) -> Program {
    let instructions = program.into_iter();
    instructions
        .map(|one| (one.code, one.jt, one.jf, one.k))
        .collect()
}

fn lengths(programs: &[Program]) -> Vec<usize> {
    programs.iter().map(Vec::len).collect()
}

/// Of each thread of a process: its name, whether it is the first, its filters.
fn threads(pid: u32) -> Result<Vec<(String, bool, Vec<Program>)>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let id: u32 = task.file_name().to_string_lossy().parse()?;
        let name = fs::read_to_string(task.path().join("comm"))?;
        if name.starts_with(KERNELS_OWN) {
            continue;
        }
        let filters = installed_filters::of_thread(id)
            .with_context(|| format!("thread {name} of process {pid}"))?;
        found.push((name.trim().to_owned(), id == pid, filters));
    }
    Ok(found)
}

fn kind(thread: &str) -> Result<Thread> {
    Ok(match thread.trim_end_matches(char::is_numeric) {
        "vcpu" => Thread::Vcpu,
        "connections" => Thread::Connections,
        "supervisor" => Thread::Supervisor,
        "attach" => Thread::Attach,
        "hot-plug" => Thread::HotPlug,
        "release" => Thread::Release,
        "qmp" => Thread::Qmp,
        "qmp-commands" | "qmp-devices" => Thread::QmpCommands,
        "metrics" => Thread::Metrics,
        "closing" => Thread::Closing,
        _ => anyhow::bail!("a thread called {thread} has no table"),
    })
}

/// The number that a process has for itself: the last one, in the innermost pid namespace.
fn own_pid(pid: u32) -> Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let row = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = row.and_then(|row| row.split_whitespace().next_back());
    Ok(own.context("NSpid")?.parse()?)
}

/// Those of the VMM's start have no gaps, so the first number that is free is not one of them.
fn first_free(pid: u32) -> Result<RawFd> {
    let open: BTreeSet<RawFd> = descriptors(pid)?.into_keys().collect();
    let free = (0..LATE_FDS).find(|number| !open.contains(number));
    free.context("the VMM has a number that is free")
}

/// Each open descriptor of a process, and what it is.
fn descriptors(pid: u32) -> Result<BTreeMap<RawFd, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        if let Ok(target) = fs::read_link(entry.path()) {
            let number = entry.file_name().to_string_lossy().parse()?;
            found.insert(number, target.display().to_string());
        }
    }
    Ok(found)
}

/// Nothing is open that the role has no use for.
fn check_descriptors(role: &str, pid: u32, allowed: &[&str]) -> Result<()> {
    let held = descriptors(pid)?;
    let is_other = |target: &String| {
        let mut known = EVERYBODY.iter().chain(allowed);
        !known.any(|known| target.starts_with(known))
    };
    let others: Vec<_> = held.iter().filter(|(_, target)| is_other(target)).collect();
    ensure!(others.is_empty(), "{role} holds {others:#?}, of {held:#?}");
    Ok(())
}
