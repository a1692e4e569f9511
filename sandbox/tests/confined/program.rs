//! A process that confines itself as its arguments say, tells what is in force, and waits for its standard input to end. For tests:
//! they look at it from outside.
//!
//! confined MODE [uid=N] [alone] [keep=N] [without=CALL]...
//!
//! `without` takes system calls away before, as if the kernel had none; `keep` lists a descriptor that is kept, all others are closed.

use std::io::Read;
use std::process::ExitCode;

use sandbox::enter::{self, EnterError};
use sandbox::mechanisms::fds;
use sandbox::mechanisms::seccomp::{Filter, Rule};
use sandbox::profile::{Enforced, Mode, Start};
use sandbox::roles::{Power, vmm};

const MEMORY_BYTES: u64 = 256 << 20;
const CALLS: [(&str, i64); 5] = [
    ("unshare", libc::SYS_unshare),
    ("mount", libc::SYS_mount),
    ("setresuid", libc::SYS_setresuid),
    ("capset", libc::SYS_capset),
    ("landlock", libc::SYS_landlock_create_ruleset),
];

fn main() -> ExitCode {
    match confine() {
        Ok(enforced) => {
            println!("{enforced}");
            let mut end = Vec::new();
            let _ended = std::io::stdin().read_to_end(&mut end);
            ExitCode::SUCCESS
        }
        Err(text) => {
            println!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn confine() -> Result<Enforced, String> {
    let mut arguments = std::env::args().skip(1);
    let mode: Mode = arguments.next().ok_or("which mode?")?.parse()?;
    let mut start = Start {
        mode,
        uid: None,
        alone: false,
    };
    for argument in arguments {
        match argument.split_once('=') {
            Some(("uid", number)) => start.uid = number.parse().ok(),
            Some(("keep", number)) => keep(number)?,
            Some(("without", call)) => take_away(call)?,
            _ if argument == "alone" => start.alone = true,
            _ => return Err(format!("what is {argument}?")),
        }
    }
    enter_role(start).map_err(|error| one_line(&error))
}

fn keep(number: &str) -> Result<(), String> {
    let number = number.parse().map_err(|_| "keep=NUMBER")?;
    fds::keep_only(&[number]).map_err(|error| one_line(&error))
}

fn take_away(call: &str) -> Result<(), String> {
    let known = CALLS.iter().find(|(name, _)| *name == call);
    let (_, number) = known.ok_or("without which call?")?;
    let refused = [Rule::syscall(*number, "a kernel that has none")];
    Filter::refusing(&refused)
        .and_then(|filter| filter.apply_to_process())
        .map(drop)
        .map_err(|error| one_line(&error))
}

fn enter_role(start: Start) -> Result<Enforced, EnterError> {
    let power = Power {
        role: "vmm",
        limits: vmm::limits(MEMORY_BYTES, false),
        folders: Vec::new(),
    };
    Ok(enter::leave_host(&power, start)?.unfiltered())
}

fn one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
