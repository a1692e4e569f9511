//! A VM whose device is the test device behind a relay, and whose guest does what a test says.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::bending_relay::{self, Bend};
use harness::deadline::{PROCESS, eventually};
use harness::device_server::DeviceServer;
use harness::process::Process;
use harness::raw_peer::unharmed::Held;
use harness::refusal::{self, Refusal};
use harness::scratch::Scratch;
use harness::{bare_guest, obedient_guest, programs};

/// Configuration space of 00:03.0.
pub(crate) const CONFIG: u32 = 0xb000_0000 + (3 << 15);
/// Where the tests put BAR0, BAR1 and BAR2.
pub(crate) const MEMORY: u32 = 0xd000_0000;
pub(crate) const TABLE: u32 = 0xd100_0000;
pub(crate) const REGISTERS: u32 = 0xd200_0000;
/// Register offsets, docs/test-device.md.
pub(crate) const ID: u32 = 0;
pub(crate) const SCRATCH: u32 = 8;
/// What the register ID says.
pub(crate) const BLKT: u32 = u32::from_le_bytes(*b"BLKT");
pub(crate) const ONES: u32 = u32::MAX;

/// A device server, and what a VM needs beside it.
pub(crate) struct Setup {
    scratch: Scratch,
    _server: DeviceServer,
    relays: usize,
    options: &'static [&'static str],
}

impl Setup {
    pub(crate) fn new(options: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let socket = scratch.file("server.sock");
        let server = DeviceServer::start(&[&["test", "--socket", &socket], options].concat())?;
        let kernel = scratch.path().join("kernel");
        bare_guest::write(obedient_guest::PROGRAM, &kernel)?;
        Ok(Self {
            scratch,
            _server: server,
            relays: 0,
            options: &[],
        })
    }

    /// Its VMs have these options too.
    pub(crate) fn with(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    /// A VM that reaches the server through a new relay.
    fn command(&mut self, bend: impl Bend) -> Result<Command> {
        self.relays += 1;
        let socket = self.scratch.file(&format!("relay-{}.sock", self.relays));
        bending_relay::between(&socket, &self.scratch.file("server.sock"), bend)?;
        self.vm(&socket)
    }

    /// A VM whose device is served on this socket.
    fn vm(&self, socket: &str) -> Result<Command> {
        let mut command = Command::new(programs::find(programs::VMM)?);
        let device = format!("vfio-user-pci,socket={socket},id=net,bus=pcie.0,addr=0x3");
        command.args(["-machine", "q35", "-m", "64M", "-serial", "stdio"]);
        command.args(["-kernel", &self.scratch.file("kernel"), "-device", &device]);
        command.args(self.options);
        Ok(command)
    }

    /// The VM must refuse the device.
    pub(crate) fn refused(&mut self, bend: impl Bend) -> Result<Refusal> {
        refusal::of(&mut self.command(bend)?)
    }

    /// The VM runs, and its guest has put the device where the tests look for it.
    pub(crate) fn attached(mut self, bend: impl Bend) -> Result<Machine> {
        let command = self.command(bend)?;
        self.started(command)
    }

    /// The same with nobody between the VM and the server.
    pub(crate) fn attached_directly(self) -> Result<Machine> {
        let command = self.vm(&self.scratch.file("server.sock"))?;
        self.started(command)
    }

    fn started(self, mut command: Command) -> Result<Machine> {
        let mut machine = Machine {
            process: Process::start("VMM", &mut command)?,
            answers: 0,
            before: None,
            setup: self,
        };
        machine.place()?;
        machine.note_what_is_held()?;
        Ok(machine)
    }
}

/// A running VM; killed when dropped.
pub(crate) struct Machine {
    process: Process,
    answers: usize,
    /// With the device attached and its BARs where the tests look.
    before: Option<Held>,
    setup: Setup,
}

impl Machine {
    /// Lets the guest do one access; gives what it read.
    fn guest(&mut self, letter: u8, address: u32, value: u32) -> Result<u32> {
        self.answer_within(PROCESS, letter, address, value)
    }

    fn answer_within(
        &mut self,
        limit: Duration,
        letter: u8,
        address: u32,
        value: u32,
    ) -> Result<u32> {
        self.process
            .write(&obedient_guest::command(letter, address, value))?;
        let number = self.answers;
        let stdout = self.process.stdout();
        let answer = eventually("the guest's answer", limit, || {
            let text = stdout.text();
            let whole = text.rfind('\n').and_then(|end| text.get(..end))?;
            Some(whole.lines().nth(number)?.to_owned())
        });
        let answer = answer.with_context(|| format!("the VMM's stderr:\n{}", self.log()))?;
        self.answers += 1;
        Ok(u32::from_str_radix(answer.trim(), 16)?)
    }

    /// Gives the BARs their addresses, and turns memory decoding and bus mastering on.
    pub(crate) fn place(&mut self) -> Result<()> {
        for (offset, value) in [(0x10, MEMORY), (0x14, TABLE), (0x18, REGISTERS), (0x1c, 0)] {
            self.config_write(offset, value)?;
        }
        self.config_write(4, 6)
    }

    pub(crate) fn config_read(&mut self, offset: u32) -> Result<u32> {
        self.guest(b'r', CONFIG + offset, 0)
    }

    pub(crate) fn config_write(&mut self, offset: u32, value: u32) -> Result<()> {
        self.guest(b'w', CONFIG + offset, value).map(drop)
    }

    pub(crate) fn read(&mut self, address: u32) -> Result<u32> {
        self.guest(b'r', address, 0)
    }

    pub(crate) fn read_within(&mut self, limit: Duration, address: u32) -> Result<u32> {
        self.answer_within(limit, b'r', address, 0)
    }

    pub(crate) fn write(&mut self, address: u32, value: u32) -> Result<()> {
        self.guest(b'w', address, value).map(drop)
    }

    /// A trapped register of the device.
    pub(crate) fn register(&mut self, offset: u32) -> Result<u32> {
        self.read(REGISTERS + offset)
    }

    pub(crate) fn set_register(&mut self, offset: u32, value: u32) -> Result<()> {
        self.write(REGISTERS + offset, value)
    }

    /// What the VM's processes logged.
    pub(crate) fn log(&self) -> String {
        self.process.stderr().text()
    }

    /// How many log lines have this text.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Open descriptors of all processes of the VM.
    pub(crate) fn fds(&self) -> Result<usize> {
        let mut open = 0;
        for pid in self.process.family()? {
            open += std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        }
        Ok(open)
    }

    /// What the VM's processes hold now is theirs; `is_unharmed` counts from here.
    pub(crate) fn note_what_is_held(&mut self) -> Result<()> {
        self.before = Some(Held::by(&self.process.family()?)?);
        Ok(())
    }

    /// What follows every refusal: the device is in step or lost, no descriptor is left, memory is bounded, and the VM runs on.
    fn is_unharmed(&self) -> Result<()> {
        let before = self.before.as_ref().context("it is placed")?;
        before.is_all().with_context(|| self.log())
    }

    /// The device answers, and what was lost before is not missed; the VM is unharmed.
    pub(crate) fn is_in_step(&mut self) -> Result<()> {
        for value in [0x1234_5678, 0x9abc_def0] {
            self.set_register(SCRATCH, value)?;
            let read = self.register(SCRATCH)?;
            ensure!(read == value, "SCRATCH reads {read:#x}: {}", self.log());
        }
        let id = self.register(ID)?;
        ensure!(id == BLKT, "ID reads {id:#x}: {}", self.log());
        self.is_unharmed()
    }

    /// The device is gone for the guest, which runs on; one line says so, and the VM is unharmed.
    pub(crate) fn has_lost_the_device(&mut self) -> Result<()> {
        for _ in 0..3 {
            let id = self.register(ID)?;
            ensure!(id == ONES, "ID reads {id:#x}: {}", self.log());
            self.set_register(SCRATCH, 1)?;
        }
        let config = self.config_read(0)?;
        ensure!(config == ONES, "configuration space reads {config:#x}");
        let lines = self.logged("device lost");
        ensure!(
            lines == 1,
            "{lines} lines say that it is lost:\n{}",
            self.log()
        );
        self.is_unharmed()
    }

    /// Ends the VM and gives the device to the next one.
    pub(crate) fn end(self) -> Setup {
        self.setup
    }
}
