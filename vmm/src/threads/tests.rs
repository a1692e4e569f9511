use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn no_thread_begins_before_every_thread_is_confined() {
    let threads = Threads::held(None);
    let (begun, order) = channel();
    for kind in [Kind::Vcpu, Kind::Qmp, Kind::Attach] {
        let begun = begun.clone();
        let body = move || begun.send(None).unwrap();
        threads.start(kind, "test", body).unwrap();
    }
    let told = Mutex::new(begun);
    let confine = move |kind| {
        let _sent = told.lock().unwrap().send(Some(kind));
        Ok(())
    };
    threads.complete().confine(Arc::new(confine)).unwrap();
    let seen: Vec<Option<Kind>> = (0..7)
        .map(|_| order.recv_timeout(DEADLINE).unwrap())
        .collect();
    let (confined, began) = seen.split_at(4);
    assert!(confined.iter().all(Option::is_some), "{seen:?}");
    assert!(began.iter().all(Option::is_none), "{seen:?}");
}

#[test]
fn thread_that_cannot_be_confined_keeps_all_from_beginning() {
    let threads = Threads::held(None);
    let ran = Arc::new(AtomicUsize::new(0));
    for kind in [Kind::Vcpu, Kind::Qmp] {
        let ran = Arc::clone(&ran);
        let body = move || {
            ran.fetch_add(1, Ordering::Relaxed);
        };
        threads.start(kind, "test", body).unwrap();
    }
    let confine = |kind| {
        if kind == Kind::Vcpu {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(())
    };
    let refused = threads.complete().confine(Arc::new(confine)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
    assert_eq!(ran.load(Ordering::Relaxed), 0);
}

#[test]
fn number_of_a_thread_is_the_one_that_proc_has() {
    let proc = std::fs::File::open("/proc").unwrap();
    let threads = Threads::held(Some(proc.into()));
    let (own, number) = channel();
    let body = move || own.send(std::fs::read_link("/proc/thread-self")).unwrap();
    let started = threads.start(Kind::Vcpu, "test", body).unwrap();
    threads.complete().confine(Arc::new(|_| Ok(()))).unwrap();
    let link = number.recv_timeout(DEADLINE).unwrap().unwrap();
    assert!(link.ends_with(started.id.to_string()), "{link:?}");
}
