//! Eight slots at once, filled and emptied in an order that differs each time, and nothing may grow.
//!
//! HOTPLUG_CYCLES sets how often (scripts/soak); the order comes from a fixed seed, so that a failure can be repeated.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::host_device::HostDevice;

use crate::leaks::{cycles, held, holds_no_more_than};
use crate::machine::{Machine, PLUG, UNPLUG, is_free};

/// Eight NVMe controllers without a disk, which scripts/test-support/lab_sets.py adds to the lab machine.
const HOSTS: [&str; 8] = [
    "0000:00:10.0",
    "0000:00:11.0",
    "0000:00:12.0",
    "0000:00:13.0",
    "0000:00:14.0",
    "0000:00:15.0",
    "0000:00:16.0",
    "0000:00:17.0",
];
const CYCLES: usize = 10;
/// The first of them, for what is made once: the allocator's heaps grow by the two message buffers, of 1 MiB each, of eight devices at once.
/// Measured: 69 MiB after one cycle, 86 MiB after four, and the same from there on.
const WARM_UP: usize = 4;

/// Puts eight numbers in another order. A linear congruential generator (Knuth's constants).
fn shuffle(state: &mut u64, order: &mut [usize; 8]) {
    for last in (1..order.len()).rev() {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from(*state >> 33).unwrap_or_default() % (last + 1);
        order.swap(last, other);
    }
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn eight_slots_are_filled_and_emptied_again_and_again() -> Result<()> {
    let mut arguments = Vec::new();
    for (number, host) in HOSTS.iter().enumerate() {
        HostDevice::at(host).give_to_vfio()?;
        arguments.push("-device".to_owned());
        arguments.push(format!(
            "pcie-root-port,id=port{number},port={number:#x},bus=pcie.0,addr={:#x}",
            number + 1
        ));
        arguments.push("-device-policy".to_owned());
        arguments.push(format!("allow-host={host}"));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut machine = Machine::start(&arguments)?;
    let mut before = None;
    let (mut state, mut order) = (1, [0, 1, 2, 3, 4, 5, 6, 7]);
    let start = Instant::now();
    for cycle in 0..cycles(CYCLES)? {
        shuffle(&mut state, &mut order);
        for number in order {
            machine.qmp.succeed(&format!(
                r#"{{"execute":"device_add","arguments":{{"id":"d{number}","driver":"vfio-pci","bus":"port{number}","addr":"0x0","host":"{}"}}}}"#,
                HOSTS[number]
            ))?;
        }
        for _ in order {
            machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
        }
        machine.guest("lspci | grep -c Non-Volatile | grep -qx 8")?;
        shuffle(&mut state, &mut order);
        for number in order {
            machine.qmp.succeed(&format!(
                r#"{{"execute":"device_del","arguments":{{"id":"d{number}"}}}}"#
            ))?;
        }
        let mut deleted = Vec::new();
        for _ in order {
            let data = machine.event("DEVICE_DELETED", UNPLUG)?;
            let id = data["device"].as_str().context("an id")?.to_owned();
            let number: usize = id.trim_start_matches('d').parse()?;
            is_free(HOSTS[number])?;
            deleted.push(id);
        }
        deleted.sort();
        deleted.dedup();
        ensure!(deleted.len() == 8, "cycle {cycle}: {deleted:?}");
        machine.guest("lspci | grep -c Non-Volatile | grep -qx 0")?;
        let now = held(&mut machine)?;
        let seconds = start.elapsed().as_secs();
        println!("cycle {cycle}, after {seconds} s: order {order:?}, {now:?}");
        if cycle + 1 == WARM_UP {
            before = Some(now);
        }
    }
    let before = before.context("as many cycles as warm up")?;
    holds_no_more_than(&mut machine, &before)?;
    machine.finish()?;
    Ok(())
}
