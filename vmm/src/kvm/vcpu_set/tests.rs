use std::sync::mpsc::{Receiver, Sender, channel};

use super::super::tests::{DEADLINE, Seen, guest, program};
use super::*;
use crate::address_space::{AddressRange, Trap};

/// A trap that waits, as one does for a device server that does not answer.
struct Waiting {
    entered: Mutex<Sender<()>>,
    leave: Mutex<Receiver<()>>,
}

impl Trap for Waiting {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}
    fn write(&self, _offset: u64, _data: &[u8]) {
        self.entered.lock().unwrap().send(()).unwrap();
        self.leave.lock().unwrap().recv_timeout(DEADLINE).unwrap();
    }
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn vcpu_that_does_not_stop_in_time_runs_on() {
    let code = program(&[
        &[0x66, 0xba, 0x20, 0x05], // mov dx, 0x520
        &[0xee],                   // out dx, al
        &[0x66, 0xba, 0x00, 0x05], // mov dx, 0x500
        &[0xee],                   // out dx, al
    ]);
    let guest = guest(&code);
    let ((entered, has_entered), (leaves, leave)) = (channel(), channel());
    let waiting = Waiting {
        entered: Mutex::new(entered),
        leave: Mutex::new(leave),
    };
    let port = AddressRange {
        start: 0x520,
        len: 1,
    };
    guest.spaces.pio.insert(port, Arc::new(waiting)).unwrap();
    guest.vcpus.resume();
    has_entered.recv_timeout(DEADLINE).unwrap();
    let refused = guest.vcpus.pause_within(Duration::from_millis(20));
    assert!(
        matches!(refused, Err(KvmError::StuckVcpu(0, _))),
        "{refused:?}"
    );
    leaves.send(()).unwrap();
    assert!(matches!(guest.next(), Seen::Write(0, _)));
    guest.vcpus.shut_down().unwrap();
}
