//! A guest that does what no driver does, on two CPUs: the VM lives, the device works again once it is placed again, and another
//! VM notices nothing.
//!
//! In the lab an access takes a hundred times as long: there a test ends when its time is up, and says on stderr how much it did. Here all is done.
//!
//! Not here: RAM, APIC and configuration space below a BAR that KVM maps (`vmm::vfio_user::tests::mapping`), and buses that are reset
//! below a device (`vmm::pci::root::tests`).

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::deadline::eventually;
use harness::hostile_cpu::{self, Deed};

use crate::machine::{BLKT, CONFIG, ID, MEMORY, Machine, ONES, REGISTERS, Setup, TABLE};

/// A machine whose guest has a second CPU, and a root port beside the device.
const HOSTILE: [&str; 4] = [
    "-smp",
    "2",
    "-device",
    "pcie-root-port,id=port,bus=pcie.0,addr=0x4,chassis=1",
];
const ECAM: u32 = 0xb000_0000;
const PORT: u32 = ECAM + (4 << 15);
const NOBODY: u32 = ECAM + (9 << 15);
const APIC: u32 = 0xfee0_0000;
/// Device Control, with Initiate Function Level Reset in bit 15.
const DEVICE_CONTROL: u32 = 0x70;
const FLR: u32 = 1 << 15;
/// The MSI-X capability of the test device; its control word is the upper half.
const MSIX: u32 = 0x58;
const IRQ_RAISE: u32 = 0x10;
/// For all that a second CPU does in one go.
const DEED: Duration = Duration::from_secs(120);
/// Registers of the local APIC: it takes interrupts only when it is enabled, and shows those of vector 0x40 and more that wait.
const SPURIOUS_VECTOR: u32 = 0xf0;
const APIC_ENABLED: u32 = 0x1ff;
const REQUESTED_0X40: u32 = 0x220;
/// A message's delivery mode (Intel SDM vol. 3, "Message Data Register Format").
const SMI: u32 = 0x200;
/// Configuration space is gone through in pieces, which `SPREAD` leaves in no order.
const PIECE: u32 = 0x100;
const SPREAD: u32 = 5;
/// Eventfds of all vectors of the device, and their routes.
const MAY_BE_OPEN: usize = 64;
/// A guest does not fill the operator's log.
const LOG_LINES: usize = 100;

/// The machine that is attacked from inside, and one beside it.
struct Scene {
    machine: Machine,
    witness: Machine,
    open: usize,
}

impl Scene {
    fn new() -> Result<Scene> {
        let machine = Setup::new(&[])?.with(&HOSTILE).attached_directly()?;
        let open = machine.fds()?;
        let mut scene = Scene {
            machine,
            witness: Setup::new(&[])?.attached_directly()?,
            open,
        };
        for (place, word) in (0..).step_by(4).zip(hostile_cpu::PROGRAM.chunks(4)) {
            let mut bytes = [0; 4];
            bytes[..word.len()].copy_from_slice(word);
            let word = u32::from_le_bytes(bytes);
            scene.machine.write(hostile_cpu::CODE + place, word)?;
        }
        Ok(scene)
    }

    /// Starts the second CPU.
    fn begin(&mut self, deed: Deed) -> Result<()> {
        let words = [0, 0].into_iter().chain(deed.words());
        for (place, word) in (0..).step_by(4).zip(words) {
            self.machine.write(hostile_cpu::WORDS + place, word)?;
        }
        // To the other one: INIT, then a start-up message for 0x8000.
        self.machine.write(APIC + 0x310, 1 << 24)?;
        for message in [0x4500, 0x4608] {
            self.machine.write(APIC + 0x300, message)?;
        }
        Ok(())
    }

    fn steps(&mut self) -> Result<u32> {
        self.machine.read(hostile_cpu::WORDS)
    }

    /// Lets the second CPU do it to its end, or in the lab for so long and at least so many steps. Gives its steps.
    fn does(&mut self, deed: Deed, limit: Duration, least: u32) -> Result<u32> {
        self.begin(deed)?;
        let machine = &mut self.machine;
        let done = eventually("the end of the second CPU's work", limit, || {
            let done = machine.read(hostile_cpu::WORDS + 4);
            (!matches!(done, Ok(0))).then_some(done)
        });
        match done {
            Ok(done) => done.map(drop).with_context(|| self.machine.log())?,
            Err(_) if in_lab() => {
                let ample = || self.steps().ok().filter(|steps| *steps >= least);
                eventually("enough steps", DEED, ample).with_context(|| self.machine.log())?;
                self.rest()?;
            }
            Err(error) => {
                let steps = self.steps();
                return Err(error.context(format!(
                    "{deed:?}, steps: {steps:?}: {}",
                    self.machine.log()
                )));
            }
        }
        self.steps()
    }

    /// The second CPU does nothing until it is started again.
    fn rest(&mut self) -> Result<()> {
        self.machine.write(APIC + 0x310, 1 << 24)?;
        self.machine.write(APIC + 0x300, 0x4500)
    }

    /// Lets the second CPU do each piece of `end` bytes to its end, until all is done or time is up. Gives the number of its steps.
    fn does_in_pieces(&mut self, end: u32, deed: impl Fn(u32, u32) -> Deed) -> Result<u32> {
        let (begin, pieces, mut steps) = (Instant::now(), end.div_ceil(PIECE), 0);
        for number in 0..pieces {
            let first = number * SPREAD % pieces * PIECE;
            let deed = deed(first, (first + PIECE).min(end));
            let done = self.does(deed, DEED, 0)?;
            ensure!(
                done == PIECE.min(end),
                "{deed:?}: {done} steps: {}",
                self.machine.log()
            );
            steps += done;
            if begin.elapsed() > enough() {
                break;
            }
        }
        Ok(steps)
    }

    /// The VM lives, its device works where it is placed again, little was logged and opened; the other VM noticed nothing.
    fn must_be_unharmed(mut self) -> Result<()> {
        let open = self.machine.fds()?;
        ensure!(
            open <= self.open + MAY_BE_OPEN,
            "{open} descriptors are open, {} before",
            self.open
        );
        self.machine.config_write(DEVICE_CONTROL, FLR)?;
        let machine = &mut self.machine;
        eventually("the device after its reset", DEED, || {
            let there = machine.config_read(0).ok()? != ONES;
            there.then_some(())
        })?;
        self.machine.place()?;
        self.machine.note_what_is_held()?;
        self.machine.is_in_step()?;
        let lines = self.machine.log().lines().count();
        ensure!(
            lines <= LOG_LINES,
            "{lines} lines in the log: {}",
            self.machine.log()
        );
        self.witness.is_in_step()
    }
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn guest_that_puts_bars_over_memory_apic_configuration_space_each_other_and_the_edges_lives()
-> Result<()> {
    let mut scene = Scene::new()?;
    let machine = &mut scene.machine;
    let places: [u32; 12] = [
        0, // Where its own program is.
        0x20_0000,
        0x03e0_0000, // The end of its memory.
        APIC,
        0xfec0_0000,
        ECAM,
        CONFIG,
        MEMORY,
        TABLE,
        REGISTERS,
        0xffe0_0000,
        0xffff_f000,
    ];
    for place in places {
        for bar in [0x10, 0x14, 0x18] {
            machine.config_write(bar, place)?;
            let read = machine.config_read(bar)? & !0xf;
            ensure!(
                place.wrapping_sub(read) < 2 << 20,
                "{place:#x} reads {read:#x}"
            );
            // What is below goes on: the program runs, the APIC and configuration space answer.
            ensure!(machine.read(APIC + 0x20)? >> 24 == 0);
            ensure!(machine.config_read(0)? & 0xffff == 0x1d1d);
            let _whatever = machine.read(place & !3)?;
        }
        // All of them at once are there now.
        machine.place()?;
        ensure!(
            machine.register(ID)? == BLKT,
            "after {place:#x}: {}",
            machine.log()
        );
    }
    // The 64-bit one, beyond what the CPU has.
    for high in [1, 0xf, 0xfff, 0xf_ffff, 0x7fff_ffff, ONES] {
        for low in [0, 0xffff_f000] {
            machine.config_write(0x18, low)?;
            machine.config_write(0x1c, high)?;
            machine.config_write(4, 0)?;
            machine.config_write(4, 6)?;
        }
    }
    machine.place()?;
    scene.must_be_unharmed()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn guest_that_moves_and_resets_what_its_other_cpu_hammers_lives() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.begin(Deed::Hammer {
        one: MEMORY,
        other: REGISTERS,
    })?;
    let mut last = scene.steps()?;
    let (begin, rounds) = (Instant::now(), 50);
    for round in 0..rounds {
        if begin.elapsed() > 2 * enough() && round % 10 == 1 {
            note_the_rest("rounds", round, rounds)?;
            break;
        }
        for command in [0, 2, 6] {
            scene.machine.config_write(4, command)?;
        }
        scene
            .machine
            .config_write(0x10, MEMORY + 0x0200_0000 * (round % 3))?;
        scene
            .machine
            .config_write(0x18, REGISTERS + 0x1000 * (round % 2))?;
        if round % 10 == 0 {
            scene.machine.config_write(DEVICE_CONTROL, FLR)?;
            let steps = scene.steps()?;
            ensure!(
                steps != last,
                "the other CPU stands still: {}",
                scene.machine.log()
            );
            last = steps;
        }
        scene.machine.place()?;
    }
    scene.rest()?;
    scene.must_be_unharmed()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn guest_that_reads_and_writes_all_of_configuration_space_in_every_width_lives() -> Result<()> {
    let mut scene = Scene::new()?;
    for function in [ECAM, CONFIG, PORT, NOBODY] {
        let (first, all) = (|at| function + at, 0x1000);
        let steps = scene.does_in_pieces(all, |from, end| Deed::Memory {
            first: first(from),
            end: first(end),
        })?;
        note_the_rest("addresses of a function", steps, all)?;
    }
    for slot in [0_u32, 3, 4, 9] {
        let first = |at| 0x8000_0000 | slot << 11 | at;
        let steps = scene.does_in_pieces(PIECE, |from, end| Deed::Ports {
            first: first(from),
            end: first(0) + end,
        })?;
        note_the_rest("port accesses of a function", steps, PIECE)?;
    }
    scene.must_be_unharmed()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn guest_that_writes_noise_to_a_root_port_and_its_device_lives() -> Result<()> {
    let mut scene = Scene::new()?;
    for (first, mask) in [
        (PORT, 0xfff),
        (PORT, 0xff),
        (CONFIG, 0xfff),
        (ECAM, 0x1f_ffff),
    ] {
        let count = 2_000;
        let steps = scene.does(Deed::Noise { first, mask, count }, enough(), 100)?;
        note_the_rest("words of noise", steps, count)?;
    }
    scene.must_be_unharmed()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn guest_whose_messages_go_anywhere_lives_and_its_memory_is_left_alone() -> Result<()> {
    let mut scene = Scene::new()?;
    let machine = &mut scene.machine;
    let memory = 0x30_0000;
    machine.write(memory, 0x5555_5555)?;
    machine.write(APIC + SPURIOUS_VECTOR, APIC_ENABLED)?;
    machine.config_write(MSIX, 0x8000_0000)?;
    for (address, high, data) in [
        (memory, 0, 0xaaaa_aaaa),
        (memory, 0, 0x41),
        (0, 0, 0),
        (MEMORY, 0, ONES),
        (TABLE, 0, 0x41),
        (0xfec0_0000, 0, 0x41),
        (0xfee0_0000, 1, 0x41),
        (0xfff0_0000, 0, 0xff),
        (ONES, ONES, ONES),
    ] {
        send(machine, address, high, data)?;
        ensure!(
            machine.register(ID)? == BLKT,
            "{address:#x}: {}",
            machine.log()
        );
    }
    ensure!(
        machine.read(memory)? == 0x5555_5555,
        "a message was written to memory"
    );
    let requested = machine.read(APIC + REQUESTED_0X40)?;
    ensure!(requested == 0, "a write was an interrupt: {requested:#x}");
    // The one that is.
    send(machine, 0xfee0_0000, 0, 0x41)?;
    eventually("the interrupt", DEED, || {
        (machine.read(APIC + REQUESTED_0X40).ok()? == 1 << 1).then_some(())
    })?;
    // To all, and of a kind that there is not.
    send(machine, 0xfeef_ffff, 0, ONES)?;
    scene.must_be_unharmed()
}

/// Has the device send this as its vector 0.
fn send(machine: &mut Machine, address: u32, high: u32, data: u32) -> Result<()> {
    for (place, word) in [(0, address), (4, high), (8, data), (12, 0)] {
        machine.write(TABLE + place, word)?;
    }
    machine.set_register(IRQ_RAISE, 2 << 16)?;
    machine.write(TABLE + 12, 1)
}

/// There is no firmware that a system management interrupt could enter.
#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn guest_whose_message_is_a_system_management_interrupt_lives_or_stops_with_a_named_error()
-> Result<()> {
    let mut scene = Scene::new()?;
    let machine = &mut scene.machine;
    machine.config_write(MSIX, 0x8000_0000)?;
    let sent = send(machine, 0xfee0_0000, 0, SMI);
    match sent.and_then(|()| machine.register(ID)) {
        Ok(id) => ensure!(id == BLKT, "{}", machine.log()),
        Err(_) => ensure!(
            machine.log().contains("bulkhead-vmm: vCPU 0: "),
            "{}",
            machine.log()
        ),
    }
    scene.witness.is_in_step()
}

fn in_lab() -> bool {
    std::path::Path::new("/lab/in").exists()
}

/// For each thing that is done over and over.
fn enough() -> Duration {
    if in_lab() {
        Duration::from_millis(1500)
    } else {
        DEED
    }
}

/// In the lab on stderr, as what a test that passes prints is captured; elsewhere nothing may be left.
fn note_the_rest(what: &str, done: u32, all: u32) -> Result<()> {
    if done < all {
        let rest = format!("{done} of {all} {what} in the time there is");
        ensure!(in_lab(), rest);
        writeln!(std::io::stderr(), "hostile: {rest}")?;
    }
    Ok(())
}
