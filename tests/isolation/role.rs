//! The roles that an attacker is in, with what a process of that role holds.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use protocol::supervisor::ControlSocket;
use rustix::fs::MemfdFlags;
use sandbox::roles::vfio::{self, IommuDescriptor, Renewal, VfioDescriptors};
use sandbox::roles::vmm::{self, Thread};
use sandbox::roles::{Calls, Power};

const MEMORY_BYTES: u64 = 64 << 20;

/// Who was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The process that starts the others.
    Supervisor,
    /// A thread of the VMM.
    Vmm(Thread),
    /// A device server with a type1 container.
    Type1,
    /// A device server with iommufd.
    Iommufd,
}

impl Role {
    /// Its columns in the matrix. Of the VMM: the thread that runs the guest, and the one that attaches devices.
    pub(crate) const ALL: [Role; 5] = [
        Role::Supervisor,
        Role::Vmm(Thread::Vcpu),
        Role::Vmm(Thread::Attach),
        Role::Type1,
        Role::Iommufd,
    ];

    /// The role of a name.
    pub(crate) fn named(name: &str) -> Option<Role> {
        let threads = Thread::ALL.into_iter().map(Role::Vmm);
        let mut all = Role::ALL.into_iter().chain(threads);
        all.find(|role| role.to_string() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Supervisor => f.write_str("supervisor"),
            Role::Vmm(thread) => write!(f, "VMM {thread:?}"),
            Role::Type1 => f.write_str("server type1"),
            Role::Iommufd => f.write_str("server iommufd"),
        }
    }
}

/// What the process has open. /dev/zero stands for devices: a request of VFIO on it is answered by its driver, not by a filter.
#[derive(Debug)]
pub(crate) struct Held {
    /// A device, of a server.
    pub device: File,
    /// What maps memory for DMA, of a server.
    pub iommu: File,
    /// Nothing that a rule names.
    pub other: File,
    /// Guest memory.
    pub memory: File,
    /// Its socket to the supervisor, of a VMM.
    pub control: ControlSocket,
    /// A network namespace: its own, until it leaves it.
    pub namespace: File,
    /// What a device server lent to the VMM: its number is above those of the start.
    pub lent: OwnedFd,
    /// The lowest number that is not of the start.
    pub late: RawFd,
}

impl Held {
    /// Opens it.
    pub(crate) fn open() -> Result<Held> {
        let zero = || File::open("/dev/zero").context("open /dev/zero");
        let memory: File = rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC)?.into();
        memory.set_len(MEMORY_BYTES)?;
        let (device, iommu, other) = (zero()?, zero()?, zero()?);
        let namespace = File::open("/proc/self/ns/net").context("open a namespace")?;
        // The attacker got it as its standard input.
        let control = std::io::stdin().as_fd().try_clone_to_owned()?;
        let number = control.as_raw_fd();
        let start = [&device, &iommu, &other, &memory, &namespace].map(AsRawFd::as_raw_fd);
        let late = start.into_iter().chain([number]).max().unwrap_or_default() + 1;
        let lent = rustix::io::fcntl_dupfd_cloexec(&other, late)?;
        Ok(Held {
            device,
            iommu,
            other,
            memory,
            control: control.into(),
            namespace,
            lent,
            late,
        })
    }
}

/// What a role is held to.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// Outside its own memory and descriptors.
    pub power: Power,
    /// Its system calls.
    pub calls: Calls,
}

/// The tables of a role. The supervisor has none of this kind.
pub(crate) fn confinement(role: Role, held: &Held) -> Confinement {
    let server = |iommu| {
        let descriptors = VfioDescriptors {
            devices: vec![held.device.as_raw_fd()],
            iommu,
            renewal: Renewal::Never,
        };
        let role = vfio::role(&descriptors, Some(MEMORY_BYTES), false, Vec::new());
        Confinement {
            power: role.power,
            calls: role.calls,
        }
    };
    let iommu = held.iommu.as_raw_fd();
    match role {
        Role::Type1 => server(IommuDescriptor::Type1(iommu)),
        Role::Iommufd => server(IommuDescriptor::Iommufd(iommu)),
        Role::Vmm(thread) => Confinement {
            power: vmm_power(),
            calls: vmm::calls(thread, held.late),
        },
        Role::Supervisor => Confinement {
            power: vmm_power(),
            calls: vmm::calls(Thread::Main, held.late),
        },
    }
}

fn vmm_power() -> Power {
    Power {
        role: "vmm",
        limits: vmm::limits(MEMORY_BYTES, false),
        folders: Vec::new(),
    }
}
