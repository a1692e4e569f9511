//! What commands take and answer and what events carry, as introspection says it.
//!
//! Spec: QEMU's qapi schema for what QEMU has: its members, as far as they are sent here. The rest is ours. Unit tests
//! beside what makes an answer, and the QMP client's test, hold real answers against these shapes.

use super::events::ShutdownCause;
use super::machine::RunState;
use super::schema::{Member, NOTHING, Shape, optional, required};

const STATES: Shape = Shape::Enum("RunState", &RunState::NAMES);
const CAUSES: Shape = Shape::Enum("ShutdownCause", &ShutdownCause::NAMES);
const STRINGS: Shape = Shape::Array(&Shape::Str);

/// `query-status`.
pub(super) const STATUS: Shape = Shape::Object(
    "StatusInfo",
    &[required("running", Shape::Bool), required("status", STATES)],
);
/// `query-version`.
pub(super) const VERSION: Shape = Shape::Object(
    "VersionInfo",
    &[
        required("qemu", VERSION_TRIPLE),
        required("package", Shape::Str),
    ],
);
const VERSION_TRIPLE: Shape = Shape::Object(
    "VersionTriple",
    &[
        required("major", Shape::Int),
        required("minor", Shape::Int),
        required("micro", Shape::Int),
    ],
);
/// `query-name`.
pub(super) const NAME: Shape = Shape::Object("NameInfo", &[optional("name", Shape::Str)]);
/// `query-commands`.
pub(super) const COMMANDS: Shape = Shape::Array(&Shape::Object(
    "CommandInfo",
    &[required("name", Shape::Str)],
));
/// `query-qmp-schema`. What else an entry has depends on its `meta-type`, which these shapes cannot say.
pub(super) const SCHEMA: Shape = Shape::Array(&Shape::Any);
/// `query-cpus-fast`.
pub(super) const CPUS: Shape = Shape::Array(&Shape::Object(
    "CpuInfoFast",
    &[
        required("cpu-index", Shape::Int),
        required("qom-path", Shape::Str),
        required("qom-type", Shape::Str),
        required("thread-id", Shape::Int),
        required("target", Shape::Enum("SysEmuTarget", &["x86_64"])),
    ],
));
/// `query-memory-size-summary`.
pub(super) const MEMORY: Shape =
    Shape::Object("MemoryInfo", &[required("base-memory", Shape::Int)]);
/// `query-kvm`.
pub(super) const KVM: Shape = Shape::Object(
    "KvmInfo",
    &[
        required("enabled", Shape::Bool),
        required("present", Shape::Bool),
        // Ours: what passed devices take of KVM.
        required("memory-slots", Shape::Int),
        required("interrupt-routes", Shape::Int),
    ],
);
/// `qmp_capabilities`.
pub(super) const CAPABILITIES: Shape =
    Shape::Object("q_capabilities", &[optional("enable", STRINGS)]);
/// `device_add`: what every device needs. `device-list-properties` lists what each kind takes beside.
pub(super) const DEVICE_ADD: Shape = Shape::Object(
    "q_device_add",
    &[
        required("driver", Shape::Str),
        required("bus", Shape::Str),
        required("id", Shape::Str),
        required("addr", Shape::Str),
    ],
);
/// `device_del`.
pub(super) const DEVICE_DEL: Shape = Shape::Object(
    "q_device_del",
    &[required("id", Shape::Str), optional("force", Shape::Bool)],
);
/// `set-boot-files`: ours.
pub(super) const SET_BOOT_FILES: Shape = Shape::Object(
    "q_set_boot_files",
    &[
        required("kernel", Shape::Str),
        optional("initrd", Shape::Str),
        optional("append", Shape::Str),
    ],
);
/// `query-boot-files`: ours.
pub(super) const BOOT_FILES: Shape = Shape::Object(
    "BootFilesInfo",
    &[required("in-force", BOOT), optional("next", BOOT)],
);
const BOOT: Shape = Shape::Object(
    "BootFiles",
    &[
        required("kernel", Shape::Str),
        optional("initrd", Shape::Str),
        required("append", Shape::Str),
    ],
);
/// `device-list-properties`.
pub(super) const LIST_PROPERTIES: Shape =
    Shape::Object("q_list_properties", &[required("typename", Shape::Str)]);
/// What that answers.
pub(super) const PROPERTIES: Shape = Shape::Array(&Shape::Object(
    "ObjectPropertyInfo",
    &[
        required("name", Shape::Str),
        required("type", Shape::Str),
        optional("description", Shape::Str),
    ],
));

/// `query-pci`.
pub(crate) const PCI: Shape = Shape::Array(&Shape::Object(
    "PciInfo",
    &[
        required("bus", Shape::Int),
        required("devices", Shape::Array(&PCI_DEVICE)),
    ],
));
/// A device, behind a bridge again: hence no constant.
static PCI_DEVICE: Shape = Shape::Object("PciDeviceInfo", &PCI_DEVICE_MEMBERS);
static PCI_DEVICE_MEMBERS: [Member; 10] = [
    required("bus", Shape::Int),
    required("slot", Shape::Int),
    required("function", Shape::Int),
    required("class_info", PCI_CLASS),
    required("id", PCI_ID),
    optional("irq", Shape::Int),
    required("irq_pin", Shape::Int),
    required("qdev_id", Shape::Str),
    optional(
        "pci_bridge",
        Shape::Object("PciBridgeInfo", &PCI_BRIDGE_MEMBERS),
    ),
    required("regions", Shape::Array(&PCI_REGION)),
];
static PCI_BRIDGE_MEMBERS: [Member; 2] = [
    required("bus", PCI_BUS),
    optional("devices", Shape::Array(&PCI_DEVICE)),
];
const PCI_CLASS: Shape = Shape::Object("PciDeviceClass", &[required("class", Shape::Int)]);
const PCI_ID: Shape = Shape::Object(
    "PciDeviceId",
    &[
        required("device", Shape::Int),
        required("vendor", Shape::Int),
        optional("subsystem", Shape::Int),
        optional("subsystem-vendor", Shape::Int),
    ],
);
const PCI_BUS: Shape = Shape::Object(
    "PciBusInfo",
    &[
        required("number", Shape::Int),
        required("secondary", Shape::Int),
        required("subordinate", Shape::Int),
        required("io_range", PCI_RANGE),
        required("memory_range", PCI_RANGE),
        required("prefetchable_range", PCI_RANGE),
    ],
);
const PCI_RANGE: Shape = Shape::Object(
    "PciMemoryRange",
    &[required("base", Shape::Int), required("limit", Shape::Int)],
);
const PCI_REGION: Shape = Shape::Object(
    "PciMemoryRegion",
    &[
        required("bar", Shape::Int),
        required("type", Shape::Str),
        required("address", Shape::Int),
        required("size", Shape::Int),
        optional("prefetch", Shape::Bool),
        optional("mem_type_64", Shape::Bool),
    ],
);

/// `query-hotplug`.
pub(crate) const SLOTS: Shape = Shape::Array(&Shape::Object(
    "HotplugSlotInfo",
    &[
        required("bus", Shape::Str),
        required("state", Shape::Enum("HotplugSlotState", &SLOT_STATES)),
        optional("waits-for", Shape::Str),
        required("powered", Shape::Bool),
        required("guest-listens", Shape::Bool),
        required("devices", STRINGS),
    ],
));
/// How far a slot is with its device.
const SLOT_STATES: [&str; 8] = [
    "empty",
    "gone",
    "queued",
    "present",
    "eject-waiting",
    "ejecting",
    "eject-overdue",
    "releasing",
];

/// `query-vfio-user`.
pub(crate) const VFIO_USER: Shape = Shape::Array(&Shape::Object(
    "VfioUserInfo",
    &[
        required("device", Shape::Str),
        required("peer", Shape::Str),
        required("state", Shape::Enum("VfioUserState", &DEVICE_STATES)),
        optional("cause", Shape::Str),
        optional("capabilities", VFIO_USER_CAPABILITIES),
        required("mapped", Shape::Array(&VFIO_USER_AREA)),
        required("messages", Shape::Array(&VFIO_USER_MESSAGES)),
        required("latency", Shape::Array(&VFIO_USER_LATENCY)),
    ],
));
/// How far a device is.
const DEVICE_STATES: [&str; 6] = [
    "attaching",
    "present",
    "recalled",
    "lost",
    "releasing",
    "held",
];
const VFIO_USER_CAPABILITIES: Shape = Shape::Object(
    "VfioUserCapabilities",
    &[
        required("max-msg-fds", Shape::Int),
        required("max-data-xfer-size", Shape::Int),
        required("max-dma-maps", Shape::Int),
        required("pgsizes", Shape::Int),
        required("write-multiple", Shape::Bool),
        required("twin-socket", Shape::Bool),
    ],
);
const VFIO_USER_AREA: Shape = Shape::Object(
    "VfioUserMappedArea",
    &[
        required("bar", Shape::Int),
        required("offset", Shape::Int),
        required("size", Shape::Int),
        optional("guest-address", Shape::Int),
    ],
);
const VFIO_USER_MESSAGES: Shape = Shape::Object(
    "VfioUserMessages",
    &[
        required("command", Shape::Str),
        required("count", Shape::Int),
    ],
);
const VFIO_USER_LATENCY: Shape = Shape::Object(
    "VfioUserLatency",
    &[
        optional("below-us", Shape::Int),
        required("count", Shape::Int),
    ],
);

/// What an event carries.
pub(super) fn event_data(name: &str) -> &'static Shape {
    match name {
        "RESET" | "SHUTDOWN" => &CAUSE,
        "BULKHEAD_DEVICE_LOST" | "BULKHEAD_DEVICE_HELD" => &LOST,
        name if name.contains("DEVICE") => &DEVICE,
        _ => &NOTHING,
    }
}

const CAUSE: Shape = Shape::Object(
    "q_cause",
    &[required("guest", Shape::Bool), required("reason", CAUSES)],
);
const DEVICE: Shape = Shape::Object(
    "q_device",
    &[required("device", Shape::Str), required("path", Shape::Str)],
);
const LOST: Shape = Shape::Object(
    "q_device_lost",
    &[
        required("device", Shape::Str),
        required("path", Shape::Str),
        required("cause", Shape::Str),
    ],
);
