//! A data transfer costs no vfio-user message, no exit of the guest to user space, no time of the device server.

use anyhow::Result;
use harness::device_server::DeviceServer;
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::kvm_statistics::KvmStatistics;
use harness::message_counter::MessageCounter;
use harness::proc_files;
use harness::scratch::Scratch;
use harness::vm::Vm;

const READS: u64 = 1000;
/// Context switches of the device server that have other reasons than the device (a timer, a signal).
const STRAY_SWITCHES: u64 = 5;

const READ_1000_BLOCKS: &str = r#"
    wait_for /dev/nvme0n1
    dd if=/dev/nvme0n1 of=/dev/null bs=4k count=100 iflag=direct 2>/dev/null
    pause warm
    dd if=/dev/nvme0n1 of=/dev/null bs=4k count=1000 iflag=direct 2>/tmp/dd
    pause done
    grep '^1000+0 records in' /tmp/dd
"#;

/// What 1,000 reads of 4 KiB cost.
#[derive(Debug)]
struct Cost {
    messages: u64,
    mmio_exits: u64,
    server_switches: u64,
    /// Not a cost: what the VMM got that would let it do without one.
    bar_fds: u64,
}

fn cost_of_reads(server_options: &[&str]) -> Result<Cost> {
    HostDevice::at(NVME).give_to_vfio()?;
    let scratch = Scratch::new()?;
    let (server_socket, counted_socket) =
        (scratch.file("server.sock"), scratch.file("counted.sock"));
    let server = DeviceServer::vfio_with(NVME, &server_socket, server_options)?;
    let counter = MessageCounter::between(&counted_socket, &server_socket)?;
    let device = format!("vfio-user-pci,socket={counted_socket},id=nvme,bus=pcie.0,addr=0x03");
    let mut vm = Vm::start(
        &["-smp", "2", "-m", "256M", "-device", &device],
        &Guest::running(READ_1000_BLOCKS),
    )?;
    let vmm = vm.vmm_pid()?;
    let measure = || -> Result<(u64, KvmStatistics, u64)> {
        Ok((
            counter.total(),
            KvmStatistics::of(vmm)?,
            proc_files::context_switches(server.pid())?,
        ))
    };
    vm.wait_for_mark("warm")?;
    let (messages, exits, switches) = measure()?;
    vm.resume()?;
    vm.wait_for_mark("done")?;
    let (messages_after, exits_after, switches_after) = measure()?;
    vm.resume()?;
    vm.finish()?.succeeded()?;
    let cost = Cost {
        messages: messages_after - messages,
        mmio_exits: exits_after.since(exits).mmio_exits,
        server_switches: switches_after - switches,
        bar_fds: counter.bar_fds(),
    };
    println!("{READS} reads {server_options:?}: {cost:?}");
    Ok(cost)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn reads_with_mapped_bars_cost_nothing() -> Result<()> {
    let cost = cost_of_reads(&[])?;
    assert_eq!(cost.messages, 0, "{cost:?}");
    assert_eq!(cost.mmio_exits, 0, "{cost:?}");
    assert!(cost.server_switches < STRAY_SWITCHES, "{cost:?}");
    assert!(cost.bar_fds > 0, "{cost:?}");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn reads_with_trapped_bars_cost_messages_and_exits_and_the_vmm_gets_no_fd() -> Result<()> {
    let cost = cost_of_reads(&["--bar-mmap", "off"])?;
    assert_eq!(cost.bar_fds, 0, "{cost:?}");
    assert!(cost.messages >= READS, "{cost:?}");
    assert!(cost.mmio_exits >= READS, "{cost:?}");
    assert!(cost.server_switches >= STRAY_SWITCHES, "{cost:?}");
    Ok(())
}
