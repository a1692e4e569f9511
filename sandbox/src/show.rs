//! What each process of a VM may do, as text: the tables of `roles` with the reason of each row, for `-print-sandbox`.
//!
//! Numbers that are known only when a process runs, those of its descriptors and the size of the guest's memory, are shown by
//! name. `in_force` is what this kernel and user really give: this process enters the sandbox and tells.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::os::fd::RawFd;

use syscalls::Sysno;

use crate::enter::{self, EnterError};
use crate::mechanisms::seccomp::{Arg, Rule};
use crate::profile::{Enforced, Mode, Start};
use crate::roles::vfio::{self, IommuDescriptor, Renewal, VfioDescriptors};
use crate::roles::vmm::{self, Thread};
use crate::roles::{Calls, Limit, Power, Role, supervisor, test_device};

/// Stand for what has no number yet.
const DEVICE: RawFd = 0x7fff_0001;
const IOMMU: RawFd = 0x7fff_0002;
const LATE: RawFd = 0x7fff_0003;
const MEMORY_BYTES: u64 = 0x7fff_0004;
const GROUP: RawFd = 0x7fff_0005;
const NAMES: [(u64, &str); 5] = [
    (DEVICE.unsigned_abs() as u64, "the device"),
    (IOMMU.unsigned_abs() as u64, "the IOMMU"),
    (
        LATE.unsigned_abs() as u64,
        "the first that came after the start",
    ),
    (MEMORY_BYTES, "the guest's memory"),
    (GROUP.unsigned_abs() as u64, "the group"),
];
/// How wide what a row allows is shown, before its reason.
const WIDTH: usize = 48;

/// All processes of a VM.
pub fn vm() -> String {
    let mut text = String::new();
    show_supervisor(&mut text);
    show_vmm(&mut text);
    text + &servers()
}

/// The server of a device, with either way to the IOMMU; through a group also one that waited for its device.
pub fn servers() -> String {
    let mut text = String::new();
    for (name, iommu, renewal) in [
        ("type1", IommuDescriptor::Type1(IOMMU), Renewal::Never),
        (
            "type1, that waited",
            IommuDescriptor::Type1(IOMMU),
            Renewal::Once(GROUP),
        ),
        ("iommufd", IommuDescriptor::Iommufd(IOMMU), Renewal::Never),
    ] {
        show_server(&mut text, name, &server(iommu, renewal));
    }
    let software = test_device::role(MEMORY_BYTES, false, Vec::new());
    show_server(&mut text, "software test device", &software);
    text
}

fn show_server(text: &mut String, name: &str, role: &Role) {
    let _ = writeln!(text, "device server, {name}");
    show_limits(text, &role.power.limits);
    text.push_str("  may call; any other call kills\n");
    show_rules(text, &allowed(&role.calls));
    show_refused(text, &role.calls);
}

/// Puts this process into the sandbox of a VMM, as far as this machine gives it, and tells what is in force.
pub fn in_force_for_vmm() -> Result<Enforced, EnterError> {
    in_force(&vmm_power(), &vmm::calls(Thread::Main, LATE))
}

/// The same for a device server.
pub fn in_force_for_server() -> Result<Enforced, EnterError> {
    let role = server(IommuDescriptor::Type1(IOMMU), Renewal::Never);
    in_force(&role.power, &role.calls)
}

fn in_force(power: &Power, calls: &Calls) -> Result<Enforced, EnterError> {
    let start = Start {
        mode: Mode::BestEffort,
        uid: None,
        alone: false,
    };
    enter::leave_host(power, start)?.close(calls)
}

fn server(iommu: IommuDescriptor, renewal: Renewal) -> Role {
    let descriptors = VfioDescriptors {
        devices: vec![DEVICE],
        iommu,
        renewal,
    };
    vfio::role(&descriptors, Some(MEMORY_BYTES), false, Vec::new())
}

fn vmm_power() -> Power {
    Power {
        role: "vmm",
        limits: vmm::limits(MEMORY_BYTES, false),
        folders: Vec::new(),
    }
}

fn show_supervisor(text: &mut String) {
    text.push_str("supervisor\n");
    show_limits(text, &supervisor::limits());
    for kept in supervisor::capabilities() {
        let names: Vec<&str> = kept.capability.iter_names().map(|(name, _)| name).collect();
        show_row(text, &format!("keeps CAP_{}", names.concat()), kept.why);
    }
    text.push_str("  refused with EPERM, to it and to all it starts; the same calls of x32 too\n");
    let refused = supervisor::refused();
    let native = refused
        .iter()
        .filter(|rule| name_of(rule.syscall).is_some());
    show_rules(text, &native.map(shown).collect::<Vec<_>>());
}

fn show_vmm(text: &mut String) {
    text.push_str("VMM\n");
    show_limits(text, &vmm_power().limits);
    let tables = Thread::ALL.map(|thread| (thread, vmm::calls(thread, LATE)));
    let rows = tables.each_ref().map(|(_, calls)| allowed(calls));
    let in_all = |row: &&(String, &'static str)| rows.iter().all(|table| table.contains(row));
    let common: Vec<_> = rows[0].iter().filter(in_all).cloned().collect();
    text.push_str("  every thread may call; any other call kills\n");
    show_rules(text, &common);
    for ((thread, _), rows) in tables.iter().zip(&rows) {
        let _ = writeln!(text, "  thread {thread:?} may call too");
        let own: Vec<_> = rows
            .iter()
            .filter(|row| !common.contains(row))
            .cloned()
            .collect();
        show_rules(text, &own);
    }
    show_refused(text, &tables[0].1);
}

/// What is allowed and not refused.
fn allowed(calls: &Calls) -> Vec<(String, &'static str)> {
    let refused: BTreeSet<String> = calls.refused.iter().map(|rule| shown(rule).0).collect();
    let rows = calls.rules.iter().map(shown);
    rows.filter(|(what, _)| !refused.contains(what)).collect()
}

fn show_refused(text: &mut String, calls: &Calls) {
    text.push_str("  refused with EPERM\n");
    show_rules(text, &calls.refused.iter().map(shown).collect::<Vec<_>>());
}

fn show_limits(text: &mut String, limits: &[Limit]) {
    for limit in limits {
        let value = match limit.value {
            None => "none".to_owned(),
            Some(MEMORY_BYTES) => named(MEMORY_BYTES),
            Some(value) => value.to_string(),
        };
        show_row(
            text,
            &format!("limit {:?} {value}", limit.resource),
            limit.why,
        );
    }
}

fn show_rules(text: &mut String, rows: &[(String, &'static str)]) {
    for (what, why) in rows {
        show_row(text, &format!("  {what}"), why);
    }
}

fn show_row(text: &mut String, what: &str, why: &str) {
    let _ = writeln!(text, "  {what:WIDTH$}  {why}");
}

/// A rule, and its reason.
fn shown(rule: &Rule) -> (String, &'static str) {
    let name = name_of(rule.syscall).map_or_else(|| rule.syscall.to_string(), str::to_owned);
    let arguments: Vec<String> = rule
        .arguments
        .iter()
        .map(|(index, arg)| format!("{} {}", argument(rule.syscall, *index), condition(*arg)))
        .collect();
    (format!("{name}({})", arguments.join(", ")), rule.why)
}

fn name_of(syscall: i64) -> Option<&'static str> {
    let number = usize::try_from(syscall).ok()?;
    Sysno::new(number).map(|known| known.name())
}

/// What an argument is called.
fn argument(syscall: i64, index: u8) -> String {
    let name = match (syscall, index) {
        (libc::SYS_ioctl, 1) => "request",
        (libc::SYS_fcntl, 1) => "command",
        (libc::SYS_mmap | libc::SYS_mprotect, 2) => "protection",
        (libc::SYS_mmap, 3) => "flags",
        (libc::SYS_mmap, 4) => "fd",
        (libc::SYS_tgkill, 0) => "process",
        (libc::SYS_socketpair, 0) => "family",
        (_, 0) => "fd",
        (_, index) => return format!("argument {index}"),
    };
    name.to_owned()
}

fn condition(arg: Arg) -> String {
    match arg {
        Arg::Equals(value) if value == u64::from(std::process::id()) => "= this process".to_owned(),
        Arg::Equals(value) => format!("= {}", named(value)),
        Arg::Differs(value) => format!("!= {}", named(value)),
        Arg::WithoutBits(bits) => format!("without {bits:#x}"),
        Arg::HasBits(bits) => format!("with {bits:#x}"),
        Arg::Below(value) => format!("below {}", named(value)),
        Arg::AtLeast(value) => format!("from {}", named(value)),
    }
}

fn named(value: u64) -> String {
    let name = NAMES.iter().find(|(number, _)| *number == value);
    match name {
        Some((_, name)) => (*name).to_owned(),
        None if value > 0xfff => format!("{value:#x}"),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_its_name_and_no_placeholder_is_left() {
        let text = vm();
        for row in text.lines().filter(|row| row.contains('(')) {
            let name = row.trim_start().split('(').next().unwrap();
            assert!(name.parse::<i64>().is_err(), "{row}");
            assert!(!row.contains("0x7fff000"), "{row}");
        }
    }

    #[test]
    fn devices_are_reached_at_their_descriptor_only() {
        let text = servers();
        assert!(text.contains("pread64(fd = the device)"), "{text}");
        assert!(!text.contains("pread64()"), "{text}");
    }

    #[test]
    fn every_thread_of_the_vmm_is_shown() {
        let text = vm();
        for thread in Thread::ALL {
            assert!(
                text.contains(&format!("thread {thread:?} may")),
                "{thread:?}"
            );
        }
    }
}
