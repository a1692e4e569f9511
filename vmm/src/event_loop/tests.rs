use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use super::{EventLoop, Interest, Source};

fn set_eventfd() -> Arc<std::os::fd::OwnedFd> {
    Arc::new(eventfd(1, EventfdFlags::NONBLOCK).unwrap())
}

#[test]
fn handler_of_a_ready_descriptor_is_called_until_it_stops_the_loop() {
    let events = EventLoop::new().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let fd = set_eventfd();
    let handler = move |events: &EventLoop| {
        if counted.fetch_add(1, Ordering::Relaxed) == 2 {
            events.stop();
        }
    };
    events
        .add(fd, Interest::Readable, Arc::new(handler))
        .unwrap();
    events.run().unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[test]
fn removed_descriptor_is_not_reported_even_if_its_owner_closed_it_first() {
    let events = EventLoop::new().unwrap();
    let silent = set_eventfd();
    let token = events
        .add(
            Arc::clone(&silent) as Source,
            Interest::Readable,
            Arc::new(|_: &EventLoop| panic!("removed")),
        )
        .unwrap();
    drop(silent);
    events.remove(token);
    let fd = set_eventfd();
    events
        .add(
            fd,
            Interest::Readable,
            Arc::new(|events: &EventLoop| events.stop()),
        )
        .unwrap();
    events.run().unwrap();
}

#[test]
fn stop_from_another_thread_wakes_the_loop() {
    let events = Arc::new(EventLoop::new().unwrap());
    let other = Arc::clone(&events);
    let thread = std::thread::spawn(move || other.stop());
    events.run().unwrap();
    thread.join().unwrap();
}
