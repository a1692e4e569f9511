//! The machine: what it is made of, how it is built, and how it begins anew at a reset.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use kvm_bindings::CpuId;

use super::boot_choice::BootChoice;
use super::processors::{Held, Processors};
use super::stages::Stages;
use super::{Inherited, RunError, io};
use crate::address_space::AddressSpaces;
use crate::config::Config;
use crate::event_loop::EventLoop;
use crate::hotplug::supervisor::Supervisor;
use crate::hotplug::{Attacher, Devices, Machine, watch_connections};
use crate::kvm::vcpu_set::VcpuContext;
use crate::kvm::{Vcpu, VcpuSet, Vm};
use crate::machine::boot::{BootError, BootFiles, Image, ImageKind};
use crate::machine::power::{self, Power, StopRequest, StopRequests};
use crate::machine::serial::{SerialPort, SerialWire};
use crate::machine::{acpi, cpuid};
use crate::memory::layout;
use crate::memory::ram::GuestRam;
use crate::pci::{PciHost, PciWindows};
use crate::qmp::server::Server;
use crate::threads::Threads;
use crate::vfio_user::VmServices;

/// A machine that is built and not running.
pub(super) struct Board {
    vm: Arc<Vm>,
    ram: Arc<GuestRam>,
    pub(super) pci: Arc<PciHost>,
    pub(super) power: Arc<Power>,
    pub(super) serial: Vec<Arc<SerialPort>>,
    pub(super) devices: Arc<Devices>,
    pub(super) vcpus: Arc<Processors>,
    pub(super) boot: Arc<BootChoice>,
    pub(super) stop: Arc<StopRequests>,
    pub(super) events: Arc<EventLoop>,
}

impl Board {
    /// Builds it from open files.
    pub(super) fn build(
        config: &Config,
        inherited: Inherited,
        qmp: &Server,
        threads: &Threads,
        stages: &Stages,
    ) -> Result<Board, RunError> {
        // 1. The virtual machine and its memory, and what it boots from.
        let files = boot_files(config, inherited.kernel, inherited.initrd)
            .map_err(cannot_boot(&config.kernel))?;
        let vm = Vm::new(inherited.kvm)?;
        let cpuid = vm.supported_cpuid()?;
        let layout = layout::place(
            config.memory.size_bytes,
            config.memory.page_size(),
            cpuid::physical_bits(&cpuid),
        )?;
        let ram = Arc::new(GuestRam::new(&config.memory, layout.ram.clone())?);
        vm.memory_slots().map_ram(&ram)?;
        stages.reached("memory-ready");
        // 2. Who answers trapped accesses.
        let spaces = Arc::new(AddressSpaces::default());
        let stop = StopRequests::new().map_err(io("Create an eventfd"))?;
        let power = Power::install(&spaces.pio, &stop, sci_line(&vm))?;
        let serial = serial_ports(inherited.serial, &vm, &spaces, stages)?;
        // 3. PCI: the host bridge and the root ports. What sits in them is attached later.
        let windows = PciWindows {
            ecam: layout::ECAM,
            mmio32: layout::MMIO32,
            mmio64: layout.mmio64,
            pio: layout::PIO,
        };
        let pci = PciHost::new(windows, &spaces)?;
        let services = VmServices::new(&vm, &spaces, &ram, windows, config.bars_leak);
        let events = Arc::new(EventLoop::new().map_err(io("Create the event loop"))?);
        let supervisor = inherited
            .control
            .map(|socket| Supervisor::start(threads, socket))
            .transpose();
        let attacher = Attacher::start(threads, services.clone());
        let qmp = qmp.clone();
        let machine = Machine {
            pci: Arc::clone(&pci),
            services,
            events: watch_connections(threads).map_err(io("Watch connections"))?,
            attacher: attacher.map_err(io("Start the thread that attaches devices"))?,
            supervisor: supervisor.map_err(io("Listen to the supervisor"))?,
            tell: Box::new(move |event| qmp.send(event)),
        };
        let devices = Devices::new(config, machine, threads)?;
        // 4. The vCPUs, stopped.
        let vcpus = vcpus(config.cpus, &cpuid, &vm)?;
        let fatal = Arc::clone(&stop);
        let context = VcpuContext {
            spaces,
            faults: Arc::clone(&devices) as _,
            on_fatal: Box::new(move |exit| fatal.request(StopRequest::Fatal(exit))),
        };
        let vcpus = Arc::new(Processors::new(VcpuSet::start(vcpus, context, threads)?));
        // 5. What is loaded at every power-on.
        let board = acpi::Board {
            cpus: config.cpus,
            serial_ports: serial.len(),
            mmio64: layout.mmio64,
            last_bus: pci.last_bus(),
        };
        let tables = acpi::tables(&board);
        let boot = BootChoice::new(config, files, &devices, &layout.ram, tables);
        Ok(Board {
            vm,
            ram,
            pci,
            power,
            serial,
            devices,
            vcpus,
            boot: Arc::new(boot),
            stop,
            events,
        })
    }

    /// What firmware and a boot loader do: vCPUs to their first state, PCI programmed, the kernel in memory.
    pub(super) fn power_on(&mut self, vcpus: &Held<'_>) -> Result<(), RunError> {
        vcpus.for_each(Vcpu::reset)?;
        self.pci.program()?;
        let entry = self.boot.load(&self.ram)?;
        let mut first = true;
        vcpus.for_each(|vcpu| {
            if std::mem::take(&mut first) {
                vcpu.enter_at(entry)
            } else {
                Ok(())
            }
        })?;
        Ok(())
    }

    /// A guest reset, in place: the same VM, memory and devices begin anew.
    pub(super) fn reset(&mut self) -> Result<(), RunError> {
        // 1. No vCPU runs, and the operator does not start one.
        let processors = Arc::clone(&self.vcpus);
        let vcpus = processors.hold();
        vcpus.pause()?;
        // 2. Devices stop their DMA before memory is written.
        self.pci.reset();
        self.power.reset();
        self.serial.iter().for_each(|port| port.reset());
        // 3. Interrupt controllers, timer, vCPUs, PCI, kernel.
        self.vm.reset_chips()?;
        self.power_on(&vcpus)?;
        // 4. What the last kernel asked for since does not count.
        self.stop.forget_guest();
        vcpus.resume();
        Ok(())
    }
}

/// What the command line names, as the supervisor opened it.
fn boot_files(
    config: &Config,
    kernel: OwnedFd,
    initrd: Option<OwnedFd>,
) -> Result<BootFiles, BootError> {
    let map = |kind, file| Image::map(kind, file, config.memory.size_bytes);
    Ok(BootFiles {
        kernel: map(ImageKind::Kernel, kernel)?,
        initrd: initrd
            .map(|file| map(ImageKind::Initrd, file))
            .transpose()?,
        append: config.append.clone(),
    })
}

fn cannot_boot(kernel: &Path) -> impl FnOnce(BootError) -> RunError {
    move |source| RunError::Boot {
        kernel: kernel.to_owned(),
        source,
    }
}

fn sci_line(vm: &Arc<Vm>) -> power::SciLine {
    let vm = Arc::clone(vm);
    Box::new(move |level| {
        if let Err(error) = vm.irq().set_line(power::SCI, level) {
            tracing::warn!(error = %error, "system control interrupt");
        }
    })
}

fn serial_ports(
    wires: Vec<SerialWire>,
    vm: &Vm,
    spaces: &AddressSpaces,
    stages: &Stages,
) -> Result<Vec<Arc<SerialPort>>, RunError> {
    let install =
        |(index, wire)| SerialPort::install(index, wire, &spaces.pio, vm.irq(), stages.began());
    let ports: Result<_, _> = wires.into_iter().enumerate().map(install).collect();
    ports.map_err(io("Set up a serial port"))
}

fn vcpus(wanted: u8, cpuid: &CpuId, vm: &Vm) -> Result<Vec<Vcpu>, RunError> {
    let limit = vm.max_vcpus();
    if usize::from(wanted) > limit {
        return Err(RunError::TooManyCpus { wanted, limit });
    }
    Ok(vm.create_vcpus(wanted, |id| cpuid::for_vcpu(cpuid, id, wanted))?)
}
