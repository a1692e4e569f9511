//! The device server as a service: it outlives its clients and leaves nothing when it is stopped.

use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use harness::device_server::DeviceServer;
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::pattern::record_in_hex;
use harness::proc_files::{mappings, open_files};
use harness::scratch::Scratch;
use harness::vm::Vm;
use protocol::{Client, ClientConfig, RegionIndex};

const READ_BLOCK: &str = r#"
    wait_for /dev/nvme0n1
    echo "BLOCK $(block 99)"
"#;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_serves_one_vm_after_the_other() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let scratch = Scratch::new()?;
    let socket = scratch.file("nvme.sock");
    let server = DeviceServer::vfio(NVME, &socket)?;
    let files_before = open_files(server.pid())?;
    let device = format!("vfio-user-pci,socket={socket},id=nvme,bus=pcie.0,addr=0x03");
    let arguments = ["-m", "256M", "-device", &device];
    for _ in ["first", "second"] {
        let report = Vm::start(&arguments, &Guest::running(READ_BLOCK))?
            .finish()?
            .succeeded()?;
        assert_eq!(report.value("BLOCK")?, record_in_hex(99));
        let nothing_left = || {
            let files = open_files(server.pid()).ok()?;
            let maps = mappings(server.pid()).ok()?;
            (files == files_before && !maps.iter().any(|map| map.is_shared_memfd())).then_some(())
        };
        harness::deadline::eventually(
            "the server forgets its client",
            harness::deadline::PROCESS,
            nothing_left,
        )
        .with_context(|| {
            let files = open_files(server.pid());
            format!("open before: {files_before:#?}, and now: {files:#?}")
        })?;
        assert!(
            !HostDevice::at(NVME).is_bus_master()?,
            "the device was reset after its client"
        );
    }
    let status = server.stop()?;
    assert!(status.success(), "{status}");
    assert_eq!(scratch.names()?, Vec::<String>::new(), "the socket is gone");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn server_takes_the_next_client_after_a_vmm_was_killed() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let scratch = Scratch::new()?;
    let socket = scratch.file("nvme.sock");
    let server = DeviceServer::vfio(NVME, &socket)?;
    let device = format!("vfio-user-pci,socket={socket},id=nvme,bus=pcie.0,addr=0x03");
    let arguments = ["-m", "256M", "-device", &device];
    let killed = Vm::start(
        &arguments,
        &Guest::running("wait_for /dev/nvme0n1\npause running"),
    )?;
    killed.wait_for_mark("running")?;
    drop(killed);
    let report = Vm::start(&arguments, &Guest::running(READ_BLOCK))?
        .finish()?
        .succeeded()?;
    assert_eq!(report.value("BLOCK")?, record_in_hex(99));
    assert!(server.stop()?.success());
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn register_that_one_client_set_is_reset_for_the_next() -> Result<()> {
    /// CC, controller configuration (NVM Express base specification, 3.1.4.5): entry sizes of the queues, not enabled.
    const CC: u64 = 0x14;
    const ENTRY_SIZES: u32 = 0x0046_0000;
    HostDevice::at(NVME).give_to_vfio()?;
    let scratch = Scratch::new()?;
    let socket = scratch.file("nvme.sock");
    let server = DeviceServer::vfio(NVME, &socket)?;
    let first = client_with_memory(&socket)?;
    first.region_write(RegionIndex::BAR0, CC, &ENTRY_SIZES.to_le_bytes())?;
    assert_eq!(register(&first, CC)?, ENTRY_SIZES, "the device took it");
    drop(first);
    let second = client_with_memory(&socket)?;
    assert_eq!(register(&second, CC)?, 0, "what the first client left");
    drop(second);
    assert!(server.stop()?.success());
    Ok(())
}

/// A client that turned on the device's answers to memory accesses.
fn client_with_memory(socket: &str) -> Result<Client> {
    const COMMAND: u64 = 4;
    const MEMORY: [u8; 2] = [2, 0];
    let stream = UnixStream::connect(socket).with_context(|| socket.to_owned())?;
    let client = Client::connect(stream.into(), ClientConfig::standard())?;
    client.region_write(RegionIndex::CONFIG, COMMAND, &MEMORY)?;
    Ok(client)
}

fn register(client: &Client, offset: u64) -> Result<u32> {
    let mut value = [0; 4];
    client.region_read(RegionIndex::BAR0, offset, &mut value)?;
    Ok(u32::from_le_bytes(value))
}
