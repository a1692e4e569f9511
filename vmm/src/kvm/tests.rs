//! Own guest code on the real /dev/kvm. Ignored where there is none: scripts/test says so.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use vm_memory::{Bytes, GuestAddress};

mod requests;

use super::exit::FatalCause;
use super::vcpu_set::VcpuContext;
use super::*;
use crate::address_space::{AddressRange, AddressSpaces, Trap};
use crate::config::MemoryConfig;
use crate::memory::layout;
use crate::memory::ram::GuestRam;

const CODE: u64 = 0x10_0000;
const COUNTER: u64 = 0x20_0000;
pub(super) const DEVICE: u64 = 0xc000_0000;
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// What the guest did to the trapped registers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Read(u64, usize),
    Write(u64, Vec<u8>),
}

struct Recorder {
    seen: Mutex<Sender<Seen>>,
    answer: u8,
}

impl Trap for Recorder {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(self.answer);
        self.seen
            .lock()
            .unwrap()
            .send(Seen::Read(offset, data.len()))
            .unwrap();
    }
    fn write(&self, offset: u64, data: &[u8]) {
        self.seen
            .lock()
            .unwrap()
            .send(Seen::Write(offset, data.to_vec()))
            .unwrap();
    }
}

struct NoFaults;

impl MemoryFaultHandler for NoFaults {
    fn drop_lost_mappings(&self, _gpa: Option<u64>) -> bool {
        false
    }
}

/// One vCPU in flat 32-bit mode at [`CODE`], with ports 0x500 to 0x50f and memory at [`DEVICE`] trapped.
pub(super) struct Guest {
    vm: Arc<Vm>,
    ram: Arc<GuestRam>,
    pub(super) vcpus: VcpuSet,
    pub(super) spaces: Arc<AddressSpaces>,
    seen: Receiver<Seen>,
    fatal: Receiver<FatalExit>,
}

/// `/dev/kvm`, which scripts/test looked for.
pub(crate) fn kvm() -> OwnedFd {
    let file = File::options().read(true).write(true).open("/dev/kvm");
    file.expect("needs /dev/kvm").into()
}

pub(super) fn guest(code: &[u8]) -> Guest {
    let vm = Vm::new(kvm()).unwrap();
    let config = MemoryConfig {
        size_bytes: 32 << 20,
        hugetlb: None,
        mem_path: None,
        prealloc: false,
    };
    let ram =
        Arc::new(GuestRam::new(&config, layout::place(32 << 20, 4096, 36).unwrap().ram).unwrap());
    vm.memory_slots().map_ram(&ram).unwrap();
    ram.guest_memory()
        .write_slice(code, GuestAddress(CODE))
        .unwrap();
    let (sender, seen) = channel();
    let recorder: Arc<dyn Trap> = Arc::new(Recorder {
        seen: Mutex::new(sender),
        answer: 0x5a,
    });
    let spaces = Arc::new(AddressSpaces::default());
    spaces
        .pio
        .insert(
            AddressRange {
                start: 0x500,
                len: 16,
            },
            Arc::clone(&recorder),
        )
        .unwrap();
    spaces
        .mmio
        .insert(
            AddressRange {
                start: DEVICE,
                len: 0x1000,
            },
            recorder,
        )
        .unwrap();
    let supported = vm.supported_cpuid().unwrap();
    let vcpus = vm
        .create_vcpus(1, |_| supported.as_slice().to_vec())
        .unwrap();
    let (sender, fatal) = channel();
    let sender = Mutex::new(sender);
    let on_fatal = Box::new(move |exit| sender.lock().unwrap().send(exit).unwrap());
    let vcpus = VcpuSet::start(
        vcpus,
        VcpuContext {
            spaces: Arc::clone(&spaces),
            faults: Arc::new(NoFaults),
            on_fatal,
        },
        &crate::threads::Threads::free(),
    )
    .unwrap();
    let guest = Guest {
        vm,
        ram,
        vcpus,
        spaces,
        seen,
        fatal,
    };
    guest.power_on();
    guest
}

impl Guest {
    fn power_on(&self) {
        let entry = CpuState::Protected {
            rip: CODE,
            rbx: 0x1234_5678,
            gdt: 0x500,
        };
        self.vcpus
            .for_each(|vcpu| vcpu.reset().and_then(|()| vcpu.enter_at(entry)))
            .unwrap();
    }

    pub(super) fn next(&self) -> Seen {
        self.seen.recv_timeout(DEADLINE).unwrap()
    }

    fn counter(&self) -> u32 {
        self.ram
            .guest_memory()
            .read_obj(GuestAddress(COUNTER))
            .unwrap()
    }
}

/// `jmp $`: the end of each program.
const STOP: [u8; 2] = [0xeb, 0xfe];

pub(super) fn program(parts: &[&[u8]]) -> Vec<u8> {
    let mut code = parts.concat();
    code.extend(STOP);
    code
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn port_and_memory_accesses_reach_their_trap_with_their_width() {
    let code = program(&[
        &[0x66, 0xba, 0x04, 0x05],       // mov dx, 0x504
        &[0xb8, 0x11, 0x22, 0x33, 0x44], // mov eax, 0x44332211
        &[0xee],                         // out dx, al
        &[0x66, 0xef],                   // out dx, ax
        &[0xef],                         // out dx, eax
        &[0xec],                         // in al, dx
        &[0xa3, 0x08, 0x00, 0x00, 0xc0], // mov [0xc0000008], eax
        &[0xa1, 0x10, 0x00, 0x00, 0xc0], // mov eax, [0xc0000010]
        &[0xa3, 0x18, 0x00, 0x00, 0xc0], // mov [0xc0000018], eax
    ]);
    let guest = guest(&code);
    guest.vcpus.resume();
    assert_eq!(guest.next(), Seen::Write(4, vec![0x11]));
    assert_eq!(guest.next(), Seen::Write(4, vec![0x11, 0x22]));
    assert_eq!(guest.next(), Seen::Write(4, vec![0x11, 0x22, 0x33, 0x44]));
    assert_eq!(guest.next(), Seen::Read(4, 1));
    assert_eq!(guest.next(), Seen::Write(8, vec![0x5a, 0x22, 0x33, 0x44]));
    assert_eq!(guest.next(), Seen::Read(0x10, 4));
    assert_eq!(guest.next(), Seen::Write(0x18, vec![0x5a; 4]));
    guest.vcpus.shut_down().unwrap();
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn string_output_is_one_access_per_element() {
    let code = program(&[
        &[0x66, 0xba, 0x00, 0x05],       // mov dx, 0x500
        &[0xbe, 0x00, 0x00, 0x10, 0x00], // mov esi, 0x100000
        &[0xb9, 0x03, 0x00, 0x00, 0x00], // mov ecx, 3
        &[0xfc, 0xf3, 0x66, 0x6f],       // cld; rep outsw
    ]);
    let guest = guest(&code);
    guest.vcpus.resume();
    let expected: Vec<_> = code
        .chunks(2)
        .take(3)
        .map(|word| Seen::Write(0, word.to_vec()))
        .collect();
    let seen: Vec<_> = (0..3).map(|_| guest.next()).collect();
    assert_eq!(seen, expected);
    guest.vcpus.shut_down().unwrap();
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn triple_fault_is_named_with_the_registers() {
    // An empty IDT and an undefined instruction.
    let guest = guest(&program(&[&[0x0f, 0x0b]]));
    guest.vcpus.resume();
    let fatal = guest.fatal.recv_timeout(DEADLINE).unwrap();
    let text = fatal.to_string();
    assert!(
        text.starts_with("vCPU 0: triple fault of the guest"),
        "{text}"
    );
    assert!(text.contains("rip=0x") && text.contains("cr0=0x"), "{text}");
    assert_eq!(fatal.cause, FatalCause::TripleFault);
    guest.vcpus.shut_down().unwrap();
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn code_where_no_memory_is_ends_the_machine_with_a_name() {
    let code = program(&[
        &[0xb8, 0x00, 0x00, 0x00, 0xd0], // mov eax, 0xd0000000
        &[0xff, 0xe0],                   // jmp eax
    ]);
    let guest = guest(&code);
    guest.vcpus.resume();
    let fatal = guest.fatal.recv_timeout(DEADLINE).unwrap();
    assert!(
        matches!(
            fatal.cause,
            FatalCause::InternalError { .. } | FatalCause::TripleFault
        ),
        "{fatal}"
    );
    assert!(fatal.to_string().contains("\n  rip=0x"), "{fatal}");
    guest.vcpus.shut_down().unwrap();
}

/// `inc dword [COUNTER]` for ever.
const COUNT: [u8; 8] = [0xff, 0x05, 0x00, 0x00, 0x20, 0x00, 0xeb, 0xf8];

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn paused_guest_stands_still_and_resumed_one_goes_on() {
    let guest = guest(&COUNT);
    for _ in 0..5 {
        let before = guest.counter();
        guest.vcpus.resume();
        let deadline = std::time::Instant::now() + DEADLINE;
        while guest.counter() == before {
            assert!(
                std::time::Instant::now() < deadline,
                "the guest does not run"
            );
            std::thread::yield_now();
        }
        guest.vcpus.pause().unwrap();
        let stopped = guest.counter();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(guest.counter(), stopped);
    }
    guest.vcpus.shut_down().unwrap();
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn reset_guest_begins_anew_even_in_the_middle_of_a_port_read() {
    let code = program(&[
        &[0x89, 0xd8],                   // mov eax, ebx
        &[0x66, 0xba, 0x00, 0x05],       // mov dx, 0x500
        &[0xef],                         // out dx, eax
        &[0xbb, 0x00, 0x00, 0x00, 0x00], // mov ebx, 0
        &[0xed, 0xeb, 0xfd],             // again: in eax, dx; jmp again
    ]);
    let guest = guest(&code);
    for _ in 0..20 {
        guest.vcpus.resume();
        assert_eq!(guest.next(), Seen::Write(0, vec![0x78, 0x56, 0x34, 0x12]));
        assert_eq!(guest.next(), Seen::Read(0, 4));
        guest.vcpus.pause().unwrap();
        while guest.seen.try_recv().is_ok() {}
        guest.vm.reset_chips().unwrap();
        guest.power_on();
    }
    guest.vcpus.shut_down().unwrap();
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn mapped_device_is_reached_without_an_exit_and_traps_after_unmap() {
    let code = program(&[
        &[0xb8, 0x11, 0x22, 0x33, 0x44], // mov eax, 0x44332211
        &[0xa3, 0x08, 0x00, 0x00, 0xc0], // mov [0xc0000008], eax
        &[0x66, 0xba, 0x00, 0x05],       // mov dx, 0x500
        &[0xee],                         // out dx, al
    ]);
    let guest = guest(&code);
    let bar = rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&bar, 0x3000).unwrap();
    let mapping = Arc::new(DeviceMapping::new(bar.as_fd(), 0x1000, 0x2000).unwrap());
    let slot = guest
        .vm
        .memory_slots()
        .map_device(DEVICE, Arc::clone(&mapping), 0x1000, 0x1000)
        .unwrap();
    assert!(
        guest.vm.memory_slots().is_device(DEVICE + 0xfff)
            && !guest.vm.memory_slots().is_device(DEVICE + 0x1000)
    );
    guest.vcpus.resume();
    assert_eq!(
        guest.next(),
        Seen::Write(0, vec![0x11]),
        "the store to the device did not exit"
    );
    let mut stored = [0; 4];
    rustix::io::pread(&bar, &mut stored, 0x2008).unwrap();
    assert_eq!(stored, [0x11, 0x22, 0x33, 0x44]);
    guest.vm.memory_slots().unmap(slot).unwrap();
    assert_eq!(
        Arc::strong_count(&mapping),
        1,
        "the slot lets its mapping go"
    );
    guest.vcpus.pause().unwrap();
    guest.power_on();
    guest.vcpus.resume();
    assert_eq!(guest.next(), Seen::Write(8, vec![0x11, 0x22, 0x33, 0x44]));
    guest.vcpus.shut_down().unwrap();
}

#[test]
fn file_that_is_not_kvm_is_refused() {
    let refused = Vm::new(File::open("/dev/null").unwrap().into()).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("/dev/kvm: it does not answer as KVM does"),
        "{refused}"
    );
}
