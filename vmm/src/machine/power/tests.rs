use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Power, StopRequest, StopRequests};
use crate::address_space::AddressSpace;

struct Board {
    ports: AddressSpace,
    requests: Arc<StopRequests>,
    power: Arc<Power>,
    sci: Arc<AtomicBool>,
}

fn board() -> Board {
    let ports = AddressSpace::default();
    let requests = StopRequests::new().unwrap();
    let sci = Arc::new(AtomicBool::new(false));
    let line = Arc::clone(&sci);
    let set = Box::new(move |level| line.store(level, Ordering::Relaxed));
    let power = Power::install(&ports, &requests, set).unwrap();
    Board {
        ports,
        requests,
        power,
        sci,
    }
}

fn after_write(port: u64, data: &[u8]) -> Option<StopRequest> {
    let board = board();
    board.ports.write(port, data);
    board.requests.take()
}

fn read(board: &Board, port: u64) -> u16 {
    let mut data = [0xff; 2];
    board.ports.read(port, &mut data);
    u16::from_le_bytes(data)
}

#[test]
fn sleep_type_5_with_enable_turns_off_and_nothing_else_does() {
    assert!(matches!(
        after_write(0x604, &0x3401u16.to_le_bytes()),
        Some(StopRequest::PowerOff)
    ));
    for value in [0x1401u16, 0x2001, 0x2401, 0] {
        assert!(
            after_write(0x604, &value.to_le_bytes()).is_none(),
            "{value:#x}"
        );
    }
}

#[test]
fn each_of_the_three_ways_to_reset_resets() {
    let writes: [(u64, u8); 4] = [(0x608, 1), (0xcf9, 0x06), (0xcf9, 0x0e), (0x64, 0xfe)];
    for (port, value) in writes {
        assert!(
            matches!(after_write(port, &[value]), Some(StopRequest::GuestReset)),
            "{port:#x}"
        );
    }
    for (port, value) in [(0x608, 0), (0xcf9, 0x02), (0x64, 0xd1), (0x609, 1)] {
        assert!(after_write(port, &[value]).is_none(), "{port:#x}");
    }
}

#[test]
fn acpi_is_on_from_the_start() {
    assert_eq!(read(&board(), 0x604) & 1, 1);
}

#[test]
fn power_button_interrupts_once_it_is_enabled_and_until_it_is_cleared() {
    let board = board();
    let sci = || board.sci.load(Ordering::Relaxed);
    board.power.press_button();
    assert!(!sci(), "not enabled");
    board.ports.write(0x602, &0x0100u16.to_le_bytes());
    assert!(sci());
    assert_eq!(read(&board, 0x600), 0x100);
    board.ports.write(0x600, &0x0100u16.to_le_bytes());
    assert!(!sci());
    assert_eq!((read(&board, 0x600), read(&board, 0x602)), (0, 0x100));
}

#[test]
fn status_and_enable_can_be_written_together_and_by_bytes() {
    let board = board();
    board.power.press_button();
    board.ports.write(0x600, &0x0100_0100u32.to_le_bytes());
    assert_eq!((read(&board, 0x600), read(&board, 0x602)), (0, 0x100));
    board.ports.write(0x602, &[0x20]);
    assert_eq!(
        read(&board, 0x602),
        0x120,
        "the global lock's enable bit stays set, as ACPICA checks"
    );
    board.ports.write(0x603, &[0]);
    assert_eq!(read(&board, 0x602), 0x20);
    board.power.press_button();
    board.ports.write(0x600, &[0xff]);
    assert_eq!(read(&board, 0x600), 0x100);
}

#[test]
fn reset_forgets_a_pressed_button() {
    let board = board();
    board.ports.write(0x602, &0x0100u16.to_le_bytes());
    board.power.press_button();
    board.power.reset();
    assert!(!board.sci.load(Ordering::Relaxed));
    assert_eq!((read(&board, 0x600), read(&board, 0x602)), (0, 0));
}

#[test]
fn keyboard_status_says_that_a_command_may_be_written() {
    let mut status = [0xff];
    board().ports.read(0x64, &mut status);
    assert_eq!(status, [0]);
}

#[test]
fn requests_come_in_their_order_and_one_of_a_kind() {
    let requests = StopRequests::new().unwrap();
    for _ in 0..100 {
        requests.request(StopRequest::PowerOff);
        requests.request(StopRequest::GuestReset);
    }
    assert!(matches!(requests.take(), Some(StopRequest::PowerOff)));
    assert!(matches!(requests.take(), Some(StopRequest::GuestReset)));
    assert!(requests.take().is_none());
}

#[test]
fn reset_of_the_operator_outlives_that_of_the_guest_and_wakes_again() {
    let requests = StopRequests::new().unwrap();
    requests.request(StopRequest::GuestReset);
    requests.request(StopRequest::OperatorReset);
    requests.request(StopRequest::PowerOff);
    assert!(matches!(requests.take(), Some(StopRequest::GuestReset)));
    requests.forget_guest();
    let mut counter = [0; 8];
    assert!(
        rustix::io::read(requests.fd(), &mut counter).is_ok(),
        "it is readable"
    );
    assert!(matches!(requests.take(), Some(StopRequest::OperatorReset)));
    assert!(requests.take().is_none());
}
