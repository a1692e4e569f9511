//! The process that tries: it enters what it is told, tries one thing, and its status tells how that went.

use std::env;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::attempts::{self, Attempt, Scene};
use crate::control_group::{self, ControlGroup};
use crate::layers::{self, Layer};
use crate::other_end::{self, OtherEnd};
use crate::role::{Held, Role, confinement};
use crate::victim::Target;

const DONE: u8 = 42;
const REFUSED: u8 = 43;
const UNKNOWN: u8 = 44;
/// In a pid namespace: the process inside was killed by its filter.
const KILLED: u8 = 45;
const SIGSYS: i32 = 31;
const SIGXFSZ: i32 = 25;
/// For want of memory in its control group.
const SIGKILL: i32 = 9;
/// More than a role may have, so that it is the role's limit that stops.
const DESCRIPTORS: u64 = 20_000;

/// What an attacker is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// Nothing.
    Nothing,
    /// One layer.
    One(Layer),
    /// The whole sandbox.
    All,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did it.
    Done,
    /// The kernel said no.
    Refused,
    /// The kernel does not know such a call.
    Unknown,
    /// It was killed.
    Killed,
}

impl Outcome {
    /// Whether it was stopped.
    pub(crate) fn stopped(self) -> bool {
        matches!(self, Outcome::Refused | Outcome::Killed)
    }

    fn of(status: ExitStatus) -> Result<Outcome> {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        match (code, status.signal()) {
            (Some(DONE), _) => Ok(Outcome::Done),
            (Some(REFUSED), _) => Ok(Outcome::Refused),
            (Some(UNKNOWN), _) => Ok(Outcome::Unknown),
            (Some(KILLED), _) | (_, Some(SIGSYS | SIGXFSZ | SIGKILL)) => Ok(Outcome::Killed),
            _ => anyhow::bail!("the attacker ended with {status}"),
        }
    }
}

/// Has an attacker in `role` try it.
pub(crate) fn run(
    attempt: &Attempt,
    role: Role,
    behind: Behind,
    target: &Target,
) -> Result<Outcome> {
    let asks = attempt.stopped_by(role).contains(&Layer::Supervisor);
    let (other_end, socket) = match behind {
        _ if !asks => (None, Stdio::null()),
        Behind::All | Behind::One(Layer::Supervisor) => open(other_end::shipped()?),
        Behind::Nothing | Behind::One(_) => open(other_end::obedient()?),
    };
    let grouped = attempt.stopped_by(role).contains(&Layer::Cgroup) && behind != Behind::Nothing;
    let group = grouped.then(ControlGroup::new).transpose()?;
    let behind = match behind {
        Behind::Nothing => "nothing".to_owned(),
        Behind::One(layer) => layer.to_string(),
        Behind::All => "all".to_owned(),
    };
    let mut command = command()?;
    if let Some(group) = &group {
        command.env("CONTROL_GROUP", group.path());
    }
    let status = command
        .env("ATTEMPT", attempt.name)
        .env("ROLE", role.to_string())
        .env("BEHIND", &behind)
        .env("TARGET", target.to_words())
        .stdin(socket)
        .stdout(Stdio::null())
        .status()?;
    let context = || format!("{} as {role}, behind {behind}", attempt.name);
    let outcome = Outcome::of(status).with_context(context)?;
    // The attacker's copy of the socket is closed with the command, so that a thread at the other end ends too.
    drop(command);
    other_end
        .map_or(Ok(()), OtherEnd::must_be_unharmed)
        .with_context(context)?;
    Ok(outcome)
}

fn open((other_end, socket): (OtherEnd, OwnedFd)) -> (Option<OtherEnd>, Stdio) {
    (Some(other_end), socket.into())
}

fn command() -> Result<Command> {
    Ok(Command::new(env::current_exe()?))
}

/// The attacker's own part, if this process is one.
pub(crate) fn main() -> Option<ExitCode> {
    if env::var_os("STARTED").is_some() {
        return Some(DONE.into());
    }
    let name = env::var("ATTEMPT").ok()?;
    Some(match attempt(&name) {
        Ok(status) => status.into(),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "attacker: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn attempt(name: &str) -> Result<u8> {
    let role = Role::named(&env::var("ROLE")?).context("no such role")?;
    let behind = env::var("BEHIND")?;
    let target = Target::from_words(&env::var("TARGET")?)?;
    let rows = attempts::all().into_iter().flat_map(|(_, rows)| rows);
    let attempt = rows.into_iter().find(|row| row.name == name);
    let attempt = attempt.context("no such attempt")?;
    let alone = behind == "pid" || (behind == "all" && role != Role::Supervisor);
    if alone && env::var_os("INSIDE").is_none() {
        return in_pid_namespace();
    }
    let most = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    setrlimit(Resource::Nofile, most)?;
    // What is closed below its owner is not closed once more.
    let scene = ManuallyDrop::new(Scene {
        held: Held::open()?,
        target,
    });
    let confinement = confinement(role, &scene.held);
    match behind.as_str() {
        "nothing" => {}
        "all" => {
            if env::var_os("CONTROL_GROUP").is_some() {
                control_group::join()?;
            }
            layers::enter_all(role, &confinement)?;
        }
        name => {
            let layer = Layer::named(name).context("no such layer")?;
            layers::enter_one(role, layer, &confinement)?;
        }
    }
    Ok(match (attempt.call)(&scene) {
        Ok(()) => DONE,
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => UNKNOWN,
        Err(error) => {
            if behind == "nothing" {
                let _ = writeln!(std::io::stderr(), "    {name}: {error}");
            }
            REFUSED
        }
    })
}

/// The same once more, as the first process of a pid namespace.
fn in_pid_namespace() -> Result<u8> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID)?;
    let status = command()?.env("INSIDE", "1").status()?;
    Ok(match Outcome::of(status)? {
        Outcome::Done => DONE,
        Outcome::Refused => REFUSED,
        Outcome::Unknown => UNKNOWN,
        Outcome::Killed => KILLED,
    })
}
