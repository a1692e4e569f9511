//! What a VM's operator chooses of its processes' sandbox: users and a control group.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::deadline::eventually;
use harness::guest::Guest;
use harness::host_device::{E1000E, HostDevice};
use harness::proc_files::status_of_threads;
use harness::refusal;
use harness::vm::Vm;

use crate::isolation::vm_with;

/// The supervisor leaves a VM alone for 5 s before it starts a server that waits.
const NO_SPARE: Duration = Duration::from_secs(30);
const WAIT: &str = "pause running\n";

fn end(mut vm: Vm) -> Result<()> {
    vm.resume()?;
    vm.finish()?.succeeded()?;
    Ok(())
}

/// The users of the VMM and of its servers.
fn users(vm: &Vm) -> Result<Vec<u32>> {
    let pids = [vec![vm.vmm_pid()?], vm.device_server_pids()?].concat();
    let mut users = Vec::new();
    for pid in pids {
        let ids = status_of_threads(pid, "Uid")?.concat();
        let all: BTreeSet<u32> = ids
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        ensure!(all.len() == 1, "process {pid} is more than one user: {ids}");
        users.extend(all);
    }
    Ok(users)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn processes_of_two_vms_are_users_of_the_range_each_its_own() -> Result<()> {
    let range = ["-sandbox-uids", "300000-300002"];
    let first = vm_with(&range, "")?;
    let second = Vm::start(
        &[&["-m", "256M"], &range[..]].concat(),
        &Guest::running(WAIT),
    )?;
    second.wait_for_mark("running")?;
    let all: BTreeSet<u32> = [users(&first)?, users(&second)?]
        .concat()
        .into_iter()
        .collect();
    assert_eq!(all, BTreeSet::from([300_000, 300_001, 300_002]));
    // None is left for a third one, which says so.
    let kernel = std::env::var("LAB_GUEST_VMLINUX")?;
    let words = ["-m", "256M", "-kernel", &kernel, "-serial", "none"];
    refusal::of_vmm(&[&words, &range[..]].concat())?
        .names(&["-sandbox-uids 300000-300002", "all of them are in use"])?;
    end(second)?;
    end(first)?;
    // What they had can be had again.
    let again = vm_with(&range, "")?;
    assert!(users(&again)?.iter().all(|user| all.contains(user)));
    end(again)
}

const PORT: &str = "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1";

/// A VM that may be given the e1000e.
fn vm_with_a_slot(options: &[&str]) -> Result<Vm> {
    let policy = format!("allow-host={E1000E}");
    let slot = ["-m", "256M", "-device", PORT, "-device-policy", &policy];
    Vm::start(&[&slot, options].concat(), &Guest::running(WAIT))
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_that_waits_is_a_user_of_the_range_and_leaves_the_last_one() -> Result<()> {
    let vm = vm_with_a_slot(&["-sandbox-uids", "300000-300002"])?;
    vm.wait_for_mark("running")?;
    let user = status_of_threads(vm.spare_pid()?, "Uid")?.concat();
    let user: BTreeSet<&str> = user.split_whitespace().collect();
    assert_eq!(user, BTreeSet::from(["300001"]));
    end(vm)?;

    let vm = vm_with_a_slot(&["-sandbox-uids", "300000-300001", "-log-level", "debug"])?;
    vm.wait_for_mark("running")?;
    eventually("the reason why no server waits", NO_SPARE, || {
        vm.log().contains("No device server waits").then_some(())
    })?;
    let log = vm.log();
    ensure!(
        log.contains("-sandbox-uids 300000-300001: all of them are in use"),
        "{log}"
    );
    assert_eq!(vm.all_pids()?.len(), 2, "supervisor and VMM");
    end(vm)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn processes_start_in_the_control_group_and_leave_it_empty() -> Result<()> {
    let group = Path::new("/sys/fs/cgroup/tenant");
    fs::create_dir(group)?;
    let vm = vm_with(&["-sandbox-cgroup", "/sys/fs/cgroup/tenant"], "")?;
    let confined = [vec![vm.vmm_pid()?], vm.device_server_pids()?].concat();
    for pid in vm.all_pids()? {
        let shown = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let expected = confined.contains(&pid);
        assert_eq!(
            shown.trim() == "0::/tenant",
            expected,
            "process {pid}: {shown}"
        );
    }
    end(vm)?;
    assert_eq!(fs::read_to_string(group.join("cgroup.procs"))?, "");
    fs::remove_dir(group)?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn control_group_that_is_not_there_starts_nothing() -> Result<()> {
    HostDevice::at(E1000E).give_to_vfio()?;
    let kernel = std::env::var("LAB_GUEST_VMLINUX")?;
    let device = format!("vfio-pci,host={E1000E},id=net,bus=pcie.0,addr=0x3");
    refusal::of_vmm(&[
        "-m",
        "256M",
        "-kernel",
        &kernel,
        "-serial",
        "none",
        "-device",
        &device,
        "-sandbox-cgroup",
        "/sys/fs/cgroup/nobody-made-it",
    ])?
    .names(&["-sandbox-cgroup /sys/fs/cgroup/nobody-made-it", "mkdir"])?;
    Ok(())
}
