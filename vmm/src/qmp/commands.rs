//! Every command: its name, what it takes, what it gives, who runs it.
//!
//! Spec: QEMU's qapi schema for the names that QEMU has; docs/qmp.md lists what differs. The table is also what
//! `query-commands` and `query-qmp-schema` answer from, so a command cannot be there without being described.

use std::sync::Arc;

use serde_json::{Value, json};

use super::arguments::Arguments;
use super::connection::version;
use super::envelope::Request;
use super::errors::QmpError;
use super::events::Event;
use super::machine::{After, Devices, Inventory, RunControl, RunState};
use super::schema::{Member, NOTHING, Schema, Shape, optional, required};

#[cfg(test)]
mod tests;

/// What the commands act on.
#[derive(Clone)]
pub struct Context {
    /// Starting and stopping.
    pub control: Arc<dyn RunControl>,
    /// What the machine consists of.
    pub inventory: Arc<dyn Inventory>,
    /// Plugging and unplugging.
    pub devices: Arc<dyn Devices>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

/// What a command leads to.
pub(super) struct Outcome {
    /// What is returned.
    pub(super) value: Value,
    /// What is done once the answer is on its way.
    pub(super) after: Option<After>,
}

impl Outcome {
    fn nothing() -> Outcome {
        Outcome::from(json!({}))
    }

    fn then(after: After) -> Outcome {
        Outcome {
            value: json!({}),
            after: Some(after),
        }
    }
}

impl From<Value> for Outcome {
    fn from(value: Value) -> Outcome {
        Outcome { value, after: None }
    }
}

/// Runs one request.
pub(super) fn run(context: &Context, request: Request) -> Result<Outcome, QmpError> {
    let command = COMMANDS
        .iter()
        .find(|command| command.name == request.execute)
        .ok_or_else(|| QmpError::unknown_command(&request.execute))?;
    let mut arguments = Arguments::new(request.arguments);
    let outcome = (command.run)(context, &mut arguments)?;
    arguments.none()?;
    Ok(outcome)
}

/// Whether a command asks a device server, so that others should not wait for it.
pub(super) fn is_slow(command: &str) -> bool {
    matches!(command, "device_add" | "query-pci")
}

struct Command {
    name: &'static str,
    arguments: Shape,
    answer: Shape,
    /// Checks its own arguments before it acts; commands without arguments are checked by [`bare`].
    run: fn(&Context, &mut Arguments) -> Result<Outcome, QmpError>,
}

const STATES: Shape = Shape::Enum("RunState", &RunState::NAMES);
const STATUS: &[Member] = &[required("running", Shape::Bool), required("status", STATES)];
const VERSION: &[Member] = &[
    required("qemu", Shape::Any),
    required("package", Shape::Str),
];
const NAME: &[Member] = &[optional("name", Shape::Str)];
const NAMED: Shape = Shape::Object("CommandInfo", &[required("name", Shape::Str)]);
const CPU: &[Member] = &[
    required("cpu-index", Shape::Int),
    required("thread-id", Shape::Int),
    required("qom-path", Shape::Str),
    required("target", Shape::Str),
];
const MEMORY: &[Member] = &[required("base-memory", Shape::Int)];
const KVM: &[Member] = &[
    required("enabled", Shape::Bool),
    required("present", Shape::Bool),
];
const ENABLE: &[Member] = &[optional("enable", Shape::Array(&Shape::Str))];
const DEVICE_DEL: &[Member] = &[required("id", Shape::Str), optional("force", Shape::Bool)];
const TYPENAME: &[Member] = &[required("typename", Shape::Str)];
const PROPERTY: &[Member] = &[
    required("name", Shape::Str),
    required("type", Shape::Str),
    optional("description", Shape::Str),
];
/// The properties of `vfio-pci` and `vfio-user-pci`, as `device_add` takes them.
const DEVICE_ADD: &[Member] = &[
    required("driver", Shape::Str),
    required("id", Shape::Str),
    required("bus", Shape::Str),
    required("addr", Shape::Str),
    optional("host", Shape::Str),
    optional("socket", Shape::Any),
    optional("multifunction", Shape::Bool),
    optional("bar-mmap", Shape::Str),
    optional("allow-no-reset", Shape::Bool),
    optional("unplug-timeout", Shape::Int),
    optional("on-failure", Shape::Str),
];

const COMMANDS: &[Command] = &[
    Command {
        name: "qmp_capabilities",
        arguments: Shape::Object("q_capabilities", ENABLE),
        answer: NOTHING,
        run: capabilities,
    },
    Command {
        name: "query-version",
        arguments: NOTHING,
        answer: Shape::Object("VersionInfo", VERSION),
        run: |_, _| Ok(version().into()),
    },
    Command {
        name: "query-commands",
        arguments: NOTHING,
        answer: Shape::Array(&NAMED),
        run: |_, _| Ok(command_names().into()),
    },
    Command {
        name: "query-qmp-schema",
        arguments: NOTHING,
        answer: Shape::Array(&Shape::Any),
        run: |_, _| Ok(schema().into()),
    },
    Command {
        name: "query-name",
        arguments: NOTHING,
        answer: Shape::Object("NameInfo", NAME),
        run: name,
    },
    Command {
        name: "query-status",
        arguments: NOTHING,
        answer: Shape::Object("StatusInfo", STATUS),
        run: status,
    },
    Command {
        name: "query-kvm",
        arguments: NOTHING,
        answer: Shape::Object("KvmInfo", KVM),
        run: |_, _| Ok(json!({ "enabled": true, "present": true }).into()),
    },
    Command {
        name: "query-cpus-fast",
        arguments: NOTHING,
        answer: Shape::Array(&Shape::Object("CpuInfoFast", CPU)),
        run: cpus,
    },
    Command {
        name: "query-memory-size-summary",
        arguments: NOTHING,
        answer: Shape::Object("MemoryInfo", MEMORY),
        run: memory,
    },
    Command {
        name: "query-pci",
        arguments: NOTHING,
        answer: Shape::Array(&Shape::Any),
        run: |context, _| Ok(context.inventory.pci().into()),
    },
    Command {
        name: "query-hotplug",
        arguments: NOTHING,
        answer: Shape::Array(&Shape::Any),
        run: |context, _| Ok(context.inventory.slots().into()),
    },
    Command {
        name: "query-vfio-user",
        arguments: NOTHING,
        answer: Shape::Array(&Shape::Any),
        run: |context, _| Ok(context.inventory.vfio_user().into()),
    },
    Command {
        name: "query-sandbox",
        arguments: NOTHING,
        answer: Shape::Any,
        run: |context, _| Ok(context.inventory.sandbox().into()),
    },
    Command {
        name: "stop",
        arguments: NOTHING,
        answer: NOTHING,
        run: |context, arguments| bare(arguments, || context.control.stop()),
    },
    Command {
        name: "cont",
        arguments: NOTHING,
        answer: NOTHING,
        run: |context, arguments| bare(arguments, || context.control.resume()),
    },
    Command {
        name: "system_reset",
        arguments: NOTHING,
        answer: NOTHING,
        run: |context, arguments| {
            arguments.none()?;
            context.control.reset().map(Outcome::then)
        },
    },
    Command {
        name: "system_powerdown",
        arguments: NOTHING,
        answer: NOTHING,
        run: |context, arguments| bare(arguments, || context.control.power_down()),
    },
    Command {
        name: "quit",
        arguments: NOTHING,
        answer: NOTHING,
        run: |context, arguments| {
            arguments.none()?;
            Ok(Outcome::then(context.control.quit()))
        },
    },
    Command {
        name: "device_add",
        arguments: Shape::Object("q_device_add", DEVICE_ADD),
        answer: NOTHING,
        run: device_add,
    },
    Command {
        name: "device_del",
        arguments: Shape::Object("q_device_del", DEVICE_DEL),
        answer: NOTHING,
        run: device_del,
    },
    Command {
        name: "device-list-properties",
        arguments: Shape::Object("q_list_properties", TYPENAME),
        answer: Shape::Array(&Shape::Object("ObjectPropertyInfo", PROPERTY)),
        run: list_properties,
    },
];

/// For a command that acts and takes nothing: it must not act on a request that is refused.
fn bare(
    arguments: &mut Arguments,
    act: impl FnOnce() -> Result<(), QmpError>,
) -> Result<Outcome, QmpError> {
    arguments.none()?;
    act()?;
    Ok(Outcome::nothing())
}

fn capabilities(_: &Context, arguments: &mut Arguments) -> Result<Outcome, QmpError> {
    match arguments.list("enable")?.first() {
        None => Ok(Outcome::nothing()),
        Some(capability) => Err(QmpError::generic(format!(
            "Capability {capability} not available"
        ))),
    }
}

fn command_names() -> Value {
    COMMANDS
        .iter()
        .map(|command| json!({ "name": command.name }))
        .collect()
}

fn schema() -> Value {
    const DEVICE: &[Member] = &[required("device", Shape::Str), required("path", Shape::Str)];
    const LOST: &[Member] = &[
        required("device", Shape::Str),
        required("path", Shape::Str),
        required("cause", Shape::Str),
    ];
    const CAUSE: &[Member] = &[
        required("guest", Shape::Bool),
        required("reason", Shape::Str),
    ];
    let mut schema = Schema::default();
    for command in COMMANDS {
        schema.command(command.name, &command.arguments, &command.answer);
    }
    for name in Event::NAMES {
        let data = match name {
            "RESET" | "SHUTDOWN" => Shape::Object("q_cause", CAUSE),
            "BULKHEAD_DEVICE_LOST" => Shape::Object("q_device_lost", LOST),
            name if name.contains("DEVICE") => Shape::Object("q_device", DEVICE),
            _ => NOTHING,
        };
        schema.event(name, &data);
    }
    schema.into_json()
}

fn name(context: &Context, _: &mut Arguments) -> Result<Outcome, QmpError> {
    Ok(context
        .inventory
        .name()
        .map_or_else(|| json!({}), |name| json!({ "name": name }))
        .into())
}

fn status(context: &Context, _: &mut Arguments) -> Result<Outcome, QmpError> {
    let state = context.control.state();
    Ok(json!({ "running": state == RunState::Running, "status": state.name() }).into())
}

fn cpus(context: &Context, _: &mut Arguments) -> Result<Outcome, QmpError> {
    let cpu = |cpu: super::machine::Cpu| {
        json!({
            "cpu-index": cpu.index,
            "thread-id": cpu.thread_id,
            "qom-path": format!("/machine/cpu[{}]", cpu.index),
            "target": "x86_64",
        })
    };
    let cpus: Value = context.inventory.cpus().into_iter().map(cpu).collect();
    Ok(cpus.into())
}

fn memory(context: &Context, _: &mut Arguments) -> Result<Outcome, QmpError> {
    Ok(json!({ "base-memory": context.inventory.memory_bytes() }).into())
}

fn device_add(context: &Context, arguments: &mut Arguments) -> Result<Outcome, QmpError> {
    context.devices.add(arguments.take_all())?;
    Ok(Outcome::nothing())
}

fn device_del(context: &Context, arguments: &mut Arguments) -> Result<Outcome, QmpError> {
    let id = arguments.string("id")?;
    let force = arguments.flag("force")?;
    arguments.none()?;
    context.devices.remove(&id, force).map(Outcome::then)
}

fn list_properties(_: &Context, arguments: &mut Arguments) -> Result<Outcome, QmpError> {
    let driver = arguments.string("typename")?;
    let taken = |member: &&Member| match driver.as_str() {
        "vfio-pci" => member.name != "socket",
        "vfio-user-pci" => member.name != "host",
        _ => false,
    };
    let properties: Vec<Value> = DEVICE_ADD
        .iter()
        .filter(taken)
        .filter(|member| member.name != "driver")
        .map(|member| json!({ "name": member.name, "type": shape_name(&member.shape) }))
        .collect();
    if properties.is_empty() {
        return Err(QmpError::generic(format!("Class '{driver}' not found")));
    }
    Ok(Value::Array(properties).into())
}

fn shape_name(shape: &Shape) -> &'static str {
    match shape {
        Shape::Str => "str",
        Shape::Int => "int",
        Shape::Bool => "bool",
        Shape::Any => "any",
        Shape::Enum(name, _) | Shape::Object(name, _) => name,
        Shape::Array(_) => "list",
    }
}
