//! The jailed stage: start-up, the running machine, reset and shut-down as numbered steps.
//!
//! Everything it works with was opened by the supervisor. It ends when the guest turns itself off, when it resets
//! itself and `-no-reboot` is given, when a signal asks for it, or when the machine cannot go on.

mod devices;
mod inherited;
mod signals;
mod stages;

use std::sync::{Arc, Mutex, PoisonError};

use crate::address_space::{AddressSpaces, Overlap};
use crate::config::{Config, StageConfig};
use crate::event_loop::{EventLoop, Interest};
use crate::kvm::vcpu_set::VcpuContext;
use crate::kvm::{FatalExit, KvmError, Vcpu, VcpuSet, Vm};
use crate::machine::boot::{BootError, BootFiles};
use crate::machine::power::{self, Power, StopRequest, StopRequests};
use crate::machine::serial::SerialPort;
use crate::machine::{acpi, cpuid};
use crate::memory::layout::{self, GuestLayout, LayoutError};
use crate::memory::ram::{GuestRam, RamError};
use crate::pci::{PciError, PciHost, PciWindows};
use crate::vfio_user::VmServices;

pub use self::devices::DeviceError;
use self::devices::Devices;
pub use self::inherited::{InheritError, Inherited};
use self::stages::Stages;

/// How a machine ended that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest turned itself off.
    PowerOff,
    /// The guest reset itself, and `-no-reboot` is given.
    Reset,
    /// The operator typed Ctrl-A x.
    Operator,
    /// SIGTERM, SIGINT or SIGHUP.
    Signal(i32),
}

impl ExitReason {
    /// The status of the process.
    pub fn status(self) -> u8 {
        match self {
            ExitReason::PowerOff | ExitReason::Reset | ExitReason::Operator => 0,
            ExitReason::Signal(number) => {
                u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128))
            }
        }
    }
}

/// How a machine ended that did not end well, or never began. The text, with its sources, is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The supervisor handed over something unusable.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Memory cannot be placed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Memory cannot be had.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// PCI cannot be set up.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// A device cannot be attached.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The kernel cannot be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Two parts of the board want the same addresses.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// More vCPUs than this kernel has.
    #[error("-smp {wanted}: KVM on this host takes at most {limit} CPUs")]
    TooManyCpus {
        /// What was asked for.
        wanted: u8,
        /// What there is.
        limit: usize,
    },
    /// A system call of the event loop or a port.
    #[error("{step}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The guest broke its machine.
    #[error("{0}")]
    Fatal(FatalExit),
}

/// Runs the machine that the supervisor prepared (stage 2).
pub fn run_vmm(stage: StageConfig) -> Result<ExitReason, RunError> {
    let inherited = Inherited::adopt(&stage.fds, &stage.config)?;
    run_machine(&stage.config, inherited)
}

/// Runs a machine from open files.
pub fn run_machine(config: &Config, inherited: Inherited) -> Result<ExitReason, RunError> {
    let stages = Stages::start();
    // 1. Signals, before any thread exists that would not have them blocked.
    let signals = signals::block().map_err(io("Prepare for signals"))?;
    // 2. The board: memory, chips, PCI, serial ports, and the devices.
    let mut board = Board::build(config, inherited, &stages)?;
    // 3. What the first vCPU needs, and the first state of everything that firmware would set.
    board.power_on()?;
    stages.reached("kernel-loaded");
    // 4. The event loop's sources. From here on the operator's terminal belongs to the guest.
    let ended = Arc::new(Mutex::new(None));
    board.watch(&signals, &ended)?;
    // 5. The guest runs.
    board.vcpus.resume();
    stages.reached("guest-started");
    let outcome = board.serve(config.no_reboot, &ended);
    stages.reached("guest-ended");
    // 6. Nothing runs any more, then devices are let go, then memory.
    let stopped = board.vcpus.shut_down();
    board.devices.release();
    let reason = outcome?;
    stopped?;
    Ok(reason)
}

/// A machine that is built and not running.
struct Board {
    vm: Arc<Vm>,
    ram: Arc<GuestRam>,
    layout: GuestLayout,
    pci: Arc<PciHost>,
    power: Arc<Power>,
    serial: Vec<Arc<SerialPort>>,
    devices: Arc<Devices>,
    vcpus: VcpuSet,
    files: BootFiles,
    stop: Arc<StopRequests>,
    events: Arc<EventLoop>,
}

impl Board {
    fn build(config: &Config, inherited: Inherited, stages: &Stages) -> Result<Board, RunError> {
        // 1. The virtual machine and its memory.
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
        let irq = Arc::clone(&vm);
        let sci = move |level| {
            if let Err(error) = irq.irq().set_line(power::SCI, level) {
                tracing::warn!(error = %error, "system control interrupt");
            }
        };
        let power = Power::install(&spaces.pio, &stop, Box::new(sci))?;
        let mut serial = Vec::new();
        for (index, wire) in inherited.serial.into_iter().enumerate() {
            let port = SerialPort::install(index, wire, &spaces.pio, vm.irq(), stages.began());
            serial.push(port.map_err(io("Set up a serial port"))?);
        }
        // 3. PCI: the host bridge, the root ports, then what sits in them.
        let windows = PciWindows {
            ecam: layout::ECAM,
            mmio32: layout::MMIO32,
            mmio64: layout.mmio64,
            pio: layout::PIO,
        };
        let pci = PciHost::new(windows, &spaces)?;
        let services = VmServices::new(&vm, &spaces, &ram, windows);
        let devices = Devices::attach(config, inherited.devices, &pci, &services)?;
        stages.reached("devices-attached");
        // 4. The vCPUs, stopped.
        let limit = vm.max_vcpus();
        if usize::from(config.cpus) > limit {
            return Err(RunError::TooManyCpus {
                wanted: config.cpus,
                limit,
            });
        }
        let vcpus = vm.create_vcpus(config.cpus, |id| cpuid::for_vcpu(&cpuid, id, config.cpus))?;
        let fatal = Arc::clone(&stop);
        let context = VcpuContext {
            spaces,
            faults: Arc::clone(&devices) as _,
            on_fatal: Box::new(move |exit| fatal.request(StopRequest::Fatal(exit))),
        };
        let vcpus = VcpuSet::start(vcpus, context)?;
        // 5. What is loaded at every power-on.
        let board = acpi::Board {
            cpus: config.cpus,
            serial_ports: serial.len(),
            mmio64: layout.mmio64,
        };
        let files = BootFiles::new(
            inherited.kernel,
            inherited.initrd,
            config.append.clone(),
            acpi::tables(&board),
        );
        let events = Arc::new(EventLoop::new().map_err(io("Create the event loop"))?);
        Ok(Board {
            vm,
            ram,
            layout,
            pci,
            power,
            serial,
            devices,
            vcpus,
            files,
            stop,
            events,
        })
    }

    /// What firmware and a boot loader do: vCPUs to their first state, PCI programmed, the kernel in memory.
    fn power_on(&mut self) -> Result<(), RunError> {
        self.vcpus.for_each(Vcpu::reset)?;
        self.pci.program()?;
        let entry = self.files.load(self.ram.guest_memory(), &self.layout.ram)?;
        let mut first = true;
        self.vcpus.for_each(|vcpu| {
            if std::mem::take(&mut first) {
                vcpu.enter_at(entry)
            } else {
                Ok(())
            }
        })?;
        Ok(())
    }

    /// A guest reset, in place: the same VM, memory and devices begin anew.
    fn reset(&mut self) -> Result<(), RunError> {
        // 1. No vCPU runs.
        self.vcpus.pause()?;
        // 2. Devices stop their DMA before memory is written.
        self.pci.reset();
        self.power.reset();
        self.serial.iter().for_each(|port| port.reset());
        // 3. Interrupt controllers, timer, vCPUs, PCI, kernel.
        self.vm.reset_chips()?;
        self.power_on()?;
        // 4. What the last kernel asked for since does not count.
        let _stale = self.stop.take();
        self.vcpus.resume();
        Ok(())
    }

    fn watch(
        &self,
        signals: &signals::Signals,
        ended: &Arc<Mutex<Option<ExitReason>>>,
    ) -> Result<(), RunError> {
        let stop = |events: &EventLoop| events.stop();
        let failed = io("Watch an event source");
        self.events
            .add(self.stop.fd(), Interest::Readable, Arc::new(stop))
            .map_err(failed)?;
        signals
            .watch(&self.events, Arc::clone(ended))
            .map_err(io("Watch for signals"))?;
        for port in &self.serial {
            let (events, ended) = (Arc::clone(&self.events), Arc::clone(ended));
            let on_end = move || {
                *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ExitReason::Operator);
                events.stop();
            };
            port.watch(&self.events, Arc::new(on_end))
                .map_err(io("Watch a serial port"))?;
        }
        self.devices
            .watch(&self.events)
            .map_err(io("Watch the devices"))
    }

    /// Serves events until the machine ends.
    fn serve(
        &mut self,
        no_reboot: bool,
        ended: &Mutex<Option<ExitReason>>,
    ) -> Result<ExitReason, RunError> {
        loop {
            self.events.run().map_err(io("Wait for events"))?;
            if let Some(reason) = *ended.lock().unwrap_or_else(PoisonError::into_inner) {
                return Ok(reason);
            }
            match self.stop.take() {
                Some(StopRequest::PowerOff) => return Ok(ExitReason::PowerOff),
                Some(StopRequest::Reset) if no_reboot => return Ok(ExitReason::Reset),
                Some(StopRequest::Reset) => {
                    tracing::info!("guest reset");
                    self.reset()?;
                }
                Some(StopRequest::Fatal(exit)) => return Err(RunError::Fatal(exit)),
                None => {}
            }
        }
    }
}

fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> RunError + Copy {
    move |source| RunError::Io { step, source }
}
