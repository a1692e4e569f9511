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
use super::machine::{After, BootControl, BootRequest, Devices, Inventory, RunControl, RunState};
use super::schema::{NOTHING, Schema, Shape};
use super::shapes;
use crate::config::properties;

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
    /// What it boots.
    pub boot: Arc<dyn BootControl>,
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

/// Whether a command asks a device server, or the supervisor for a file, so that others should not wait for it.
pub(super) fn is_slow(command: &str) -> bool {
    matches!(command, "device_add" | "query-pci" | "set-boot-files")
}

struct Command {
    name: &'static str,
    arguments: Shape,
    answer: Shape,
    /// Checks its own arguments before it acts; commands without arguments are checked by [`bare`].
    run: fn(&Context, &mut Arguments) -> Result<Outcome, QmpError>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "qmp_capabilities",
        arguments: shapes::CAPABILITIES,
        answer: NOTHING,
        run: capabilities,
    },
    Command {
        name: "query-version",
        arguments: NOTHING,
        answer: shapes::VERSION,
        run: |_, _| Ok(version().into()),
    },
    Command {
        name: "query-commands",
        arguments: NOTHING,
        answer: shapes::COMMANDS,
        run: |_, _| Ok(command_names().into()),
    },
    Command {
        name: "query-qmp-schema",
        arguments: NOTHING,
        answer: shapes::SCHEMA,
        run: |_, _| Ok(schema().into()),
    },
    Command {
        name: "query-name",
        arguments: NOTHING,
        answer: shapes::NAME,
        run: name,
    },
    Command {
        name: "query-status",
        arguments: NOTHING,
        answer: shapes::STATUS,
        run: status,
    },
    Command {
        name: "query-kvm",
        arguments: NOTHING,
        answer: shapes::KVM,
        run: |context, _| Ok(context.inventory.kvm().into()),
    },
    Command {
        name: "query-cpus-fast",
        arguments: NOTHING,
        answer: shapes::CPUS,
        run: cpus,
    },
    Command {
        name: "query-memory-size-summary",
        arguments: NOTHING,
        answer: shapes::MEMORY,
        run: memory,
    },
    Command {
        name: "query-pci",
        arguments: NOTHING,
        answer: shapes::PCI,
        run: |context, _| Ok(context.inventory.pci().into()),
    },
    Command {
        name: "query-hotplug",
        arguments: NOTHING,
        answer: shapes::SLOTS,
        run: |context, _| Ok(context.inventory.slots().into()),
    },
    Command {
        name: "query-vfio-user",
        arguments: NOTHING,
        answer: shapes::VFIO_USER,
        run: |context, _| Ok(context.inventory.vfio_user().into()),
    },
    Command {
        name: "query-sandbox",
        arguments: NOTHING,
        answer: Shape::Any,
        run: |context, _| Ok(context.inventory.sandbox().into()),
    },
    Command {
        name: "query-boot-files",
        arguments: NOTHING,
        answer: shapes::BOOT_FILES,
        run: |context, _| Ok(context.boot.describe().into()),
    },
    Command {
        name: "set-boot-files",
        arguments: shapes::SET_BOOT_FILES,
        answer: NOTHING,
        run: set_boot_files,
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
        arguments: shapes::DEVICE_ADD,
        answer: NOTHING,
        run: device_add,
    },
    Command {
        name: "device_del",
        arguments: shapes::DEVICE_DEL,
        answer: NOTHING,
        run: device_del,
    },
    Command {
        name: "device-list-properties",
        arguments: shapes::LIST_PROPERTIES,
        answer: shapes::PROPERTIES,
        run: list_properties,
    },
];

/// For a command that acts and takes nothing more: it must not act on a request that is refused.
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
    let mut schema = Schema::default();
    for command in COMMANDS {
        schema.command(command.name, &command.arguments, &command.answer);
    }
    for name in Event::NAMES {
        schema.event(name, shapes::event_data(name));
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
            "qom-type": "host-x86_64-cpu",
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

fn set_boot_files(context: &Context, arguments: &mut Arguments) -> Result<Outcome, QmpError> {
    let request = BootRequest {
        kernel: arguments.string("kernel")?,
        initrd: arguments.optional_string("initrd")?,
        append: arguments.optional_string("append")?,
    };
    bare(arguments, || context.boot.choose(request))
}

fn list_properties(_: &Context, arguments: &mut Arguments) -> Result<Outcome, QmpError> {
    let driver = arguments.string("typename")?;
    let properties = properties::of(&driver).ok_or_else(|| QmpError::unknown_device(&driver))?;
    let described = properties.map(|property| {
        json!({
            "name": property.name,
            "type": property.kind.type_name(),
            "description": property.description,
        })
    });
    Ok(described.collect::<Value>().into())
}
