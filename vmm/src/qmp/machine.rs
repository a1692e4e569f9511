//! What QMP asks of the machine. The traits stand here, where they are called; `run` implements them.

use serde_json::{Map, Value};

use super::errors::QmpError;

/// Whether the processors run, in QMP's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// They run.
    Running,
    /// `stop` was asked for.
    Paused,
    /// The machine is ending.
    Shutdown,
}

impl RunState {
    /// Every state, as it is spelled on the wire.
    pub const NAMES: [&'static str; 3] = ["running", "paused", "shutdown"];

    /// As it is spelled on the wire.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Shutdown => "shutdown",
        }
    }
}

/// What a command starts once its answer is on its way.
pub type After = Box<dyn FnOnce() + Send>;

/// Starting and stopping.
pub trait RunControl: Send + Sync {
    /// Whether the processors run.
    fn state(&self) -> RunState;
    /// Stops the processors; when this returns, none runs. Sends STOP.
    fn stop(&self) -> Result<(), QmpError>;
    /// Lets them run again. Sends RESUME.
    fn resume(&self) -> Result<(), QmpError>;
    /// Resets the machine as the guest would. What it gives does it, and RESET follows.
    fn reset(&self) -> Result<After, QmpError>;
    /// Presses the ACPI power button. Sends POWERDOWN.
    fn power_down(&self) -> Result<(), QmpError>;
    /// What this gives ends the process.
    fn quit(&self) -> After;
}

/// One virtual processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its index, from 0.
    pub index: u32,
    /// The host thread that runs it.
    pub thread_id: i32,
}

/// What the machine consists of.
pub trait Inventory: Send + Sync {
    /// `-name`, if one was given.
    fn name(&self) -> Option<String>;
    /// The processors.
    fn cpus(&self) -> Vec<Cpu>;
    /// Guest RAM, in bytes.
    fn memory_bytes(&self) -> u64;
    /// What the machine has of KVM, as `query-kvm` answers.
    fn kvm(&self) -> Value;
    /// The buses, as `query-pci` answers.
    fn pci(&self) -> Value;
    /// The hot-plug slots, as `query-hotplug` answers.
    fn slots(&self) -> Value;
    /// The vfio-user devices, as `query-vfio-user` answers.
    fn vfio_user(&self) -> Value;
    /// What this process may do, as `query-sandbox` answers.
    fn sandbox(&self) -> Value;
}

/// Plugging and unplugging.
pub trait Devices: Send + Sync {
    /// Adds the device that these properties describe; when it returns, the host's side is done.
    fn add(&self, properties: Map<String, Value>) -> Result<(), QmpError>;
    /// Checks that the device can be asked for. What this gives asks the guest for it (or takes it, with `force`); the
    /// end of that is an event, so that the event always follows the answer.
    fn remove(&self, id: &str, force: bool) -> Result<After, QmpError>;
}

/// What to boot at the next reset. The paths are those of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootRequest {
    /// A bzImage or an ELF file with a PVH note.
    pub kernel: String,
    /// Its initrd; none if it has none.
    pub initrd: Option<String>,
    /// Its command line; none for the one in force.
    pub append: Option<String>,
}

/// Choosing what the machine boots.
pub trait BootControl: Send + Sync {
    /// Takes this at the next reset, in place of what was chosen before. When it returns, all of it was read and can be
    /// booted; an error changes nothing.
    fn choose(&self, request: BootRequest) -> Result<(), QmpError>;
    /// What is in force and what was chosen, as `query-boot-files` answers.
    fn describe(&self) -> Value;
}
