use std::sync::Arc;

use super::{StopRequest, StopRequests, install};
use crate::address_space::AddressSpace;

fn after_write(port: u64, data: &[u8]) -> Option<StopRequest> {
    let ports = AddressSpace::default();
    let requests: Arc<StopRequests> = StopRequests::new().unwrap();
    install(&ports, &requests).unwrap();
    ports.write(port, data);
    requests.take()
}

#[test]
fn sleep_type_5_with_enable_turns_off_and_nothing_else_does() {
    assert!(matches!(
        after_write(0x600, &[0x34]),
        Some(StopRequest::PowerOff)
    ));
    for value in [0x14, 0x20, 0x24, 0] {
        assert!(after_write(0x600, &[value]).is_none(), "{value:#x}");
    }
}

#[test]
fn each_of_the_three_ways_to_reset_resets() {
    let writes: [(u64, u8); 4] = [(0x602, 1), (0xcf9, 0x06), (0xcf9, 0x0e), (0x64, 0xfe)];
    for (port, value) in writes {
        assert!(
            matches!(after_write(port, &[value]), Some(StopRequest::Reset)),
            "{port:#x}"
        );
    }
    for (port, value) in [(0x602, 0), (0xcf9, 0x02), (0x64, 0xd1), (0x601, 1)] {
        assert!(after_write(port, &[value]).is_none(), "{port:#x}");
    }
}

#[test]
fn keyboard_status_says_that_a_command_may_be_written() {
    let ports = AddressSpace::default();
    install(&ports, &StopRequests::new().unwrap()).unwrap();
    let mut status = [0xff];
    ports.read(0x64, &mut status);
    assert_eq!(status, [0]);
}

#[test]
fn first_request_wins_and_the_rest_is_dropped() {
    let requests = StopRequests::new().unwrap();
    for _ in 0..100 {
        requests.request(StopRequest::PowerOff);
        requests.request(StopRequest::Reset);
    }
    assert!(matches!(requests.take(), Some(StopRequest::PowerOff)));
    assert!(requests.take().is_none());
}
