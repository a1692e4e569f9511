//! Our server with the test device, and the crate's Client.

use anyhow::Result;
use harness::scratch::Scratch;

use crate::peer::{CrateClient, HANGS, test_device};

/// Flags of SET_IRQS: EVENTFD and TRIGGER; NONE and TRIGGER.
const BIND: u32 = 4 | 32;
const FIRE: u32 = 1 | 32;

#[test]
fn crate_client_sees_the_whole_device() -> Result<()> {
    let scratch = Scratch::new()?;
    let _server = test_device(&scratch.file("s"))?;
    let mut client = CrateClient::connect(&scratch.file("s"))?;
    // READ, WRITE, MMAP and CAPS; one area, all of it, with a file (pitfall 33 is about a server that does otherwise).
    assert_eq!(
        client.call("region 0")?,
        "flags=15 size=0x200000 file=true areas=0x0+0x200000"
    );
    assert_eq!(
        client.call("region 1")?,
        "flags=3 size=0x1000 file=false areas="
    );
    assert_eq!(
        client.call("region 2")?,
        "flags=3 size=0x1000 file=false areas="
    );
    assert_eq!(
        client.call("region 4")?,
        "flags=3 size=0x20 file=false areas="
    );
    assert_eq!(
        client.call("region 6")?,
        "flags=0 size=0x0 file=false areas="
    );
    assert_eq!(
        client.call("region 7")?,
        "flags=3 size=0x1000 file=false areas="
    );
    // EVENTFD, MASKABLE and AUTOMASKED.
    assert_eq!(client.call("irq 0")?, "index=0 flags=7 count=1");
    for (index, count) in [(1, 8), (2, 16), (3, 1), (4, 1)] {
        let info = client.call(&format!("irq {index}"))?;
        assert!(info.ends_with(&format!(" count={count}")), "{info}");
    }
    Ok(())
}

#[test]
fn crate_client_reads_writes_and_maps() -> Result<()> {
    let scratch = Scratch::new()?;
    let _server = test_device(&scratch.file("s"))?;
    let mut client = CrateClient::connect(&scratch.file("s"))?;
    assert_eq!(client.call("read 7 0 4")?, "1d1d01b0", "vendor and device");
    assert_eq!(client.call("read 2 0 4")?, "424c4b54", "BLKT");
    client.call("write 2 8 78563412")?;
    assert_eq!(client.call("read 2 8 4")?, "78563412", "SCRATCH");
    client.call("mapped-write 0 0x1234 c0ffee")?;
    assert_eq!(
        client.call("read 2 0x1c 4")?,
        "00000000",
        "BAR0 by message so far"
    );
    assert_eq!(client.call("read 0 0x1234 3")?, "c0ffee");
    client.call("write 0 0x1ffffe beef")?;
    assert_eq!(client.call("mapped-read 0 0x1ffffe 2")?, "beef");
    assert_eq!(
        client.call("read 2 0x1c 4")?,
        "02000000",
        "BAR0 by message so far"
    );
    Ok(())
}

#[test]
fn crate_client_shares_memory_with_the_copy_engine() -> Result<()> {
    let scratch = Scratch::new()?;
    let _server = test_device(&scratch.file("s"))?;
    let mut client = CrateClient::connect(&scratch.file("s"))?;
    client.call("memory sealed 0x4000")?;
    client.call("memory-write 0x1000 00112233445566778899aabbccddeeff")?;
    client.call("dma_map 0x1000 0x100000 0x3000")?;
    client.call("write 7 4 0400")?; // bus master
    client.call("write 2 0x20 0000100000000000")?;
    client.call("write 2 0x28 0020100000000000")?;
    client.call("write 2 0x30 10000000")?;
    client.call("write 2 0x34 01000000")?;
    assert_eq!(client.call("read 2 0x38 4")?, "01000000", "DMA_STATUS done");
    assert_eq!(
        client.call("memory-read 0x3000 16")?,
        "00112233445566778899aabbccddeeff"
    );
    client.call("dma_unmap 0x100000 0x3000")?;
    client.call("write 2 0x34 01000000")?;
    assert_eq!(
        client.call("read 2 0x38 4")?,
        "02000e00",
        "failed with EFAULT"
    );
    Ok(())
}

/// 16 eventfds in one message, as Cloud Hypervisor sends them (pitfall 35).
#[test]
fn crate_client_binds_sixteen_vectors_at_once() -> Result<()> {
    let scratch = Scratch::new()?;
    let _server = test_device(&scratch.file("s"))?;
    let mut client = CrateClient::connect(&scratch.file("s"))?;
    client.call(&format!("set_irqs 2 {BIND} 0 16 16"))?;
    client.call("write 2 0x10 03000200")?; // IRQ_RAISE: MSI-X 3
    client.call("write 2 0x10 0f000200")?;
    client.call("write 2 0x10 0f000200")?;
    assert_eq!(client.call("fired")?, "3:1,15:2");
    client.call(&format!("set_irqs 2 {FIRE} 5 2 0"))?;
    assert_eq!(client.call("fired")?, "5:1,6:1");
    // NONE, TRIGGER, start 0, count 0: the index is disabled, its eventfds forgotten.
    client.call(&format!("set_irqs 2 {FIRE} 0 0 0"))?;
    client.call("write 2 0x10 03000200")?;
    assert_eq!(client.call("fired")?, "");
    // INTx with one eventfd.
    client.call(&format!("set_irqs 0 {BIND} 0 1 1"))?;
    client.call("write 2 0x14 01000000")?;
    assert_eq!(client.call("fired")?, "0:1");
    Ok(())
}

/// C1 row 9: `resettable` is inverted. A VMM on top of it never resets our device, and resets one that cannot.
#[test]
fn crate_client_resets_and_says_the_opposite() -> Result<()> {
    let scratch = Scratch::new()?;
    let _server = test_device(&scratch.file("s"))?;
    let mut client = CrateClient::connect(&scratch.file("s"))?;
    assert_eq!(
        client.call("resettable")?,
        "false",
        "the device advertises RESET"
    );
    client.call("write 2 8 78563412")?;
    client.call("reset")?;
    assert_eq!(client.call("read 2 8 4")?, "00000000", "SCRATCH");
    assert_eq!(client.call("read 2 0x18 4")?, "01000000", "RESETS");
    Ok(())
}

/// C1 row 1: the crate reports a refused map as success. Here of memory that could shrink under the device.
#[test]
fn crate_client_takes_a_refused_map_for_success() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = test_device(&scratch.file("s"))?;
    let mut client = CrateClient::connect(&scratch.file("s"))?;
    client.call("memory unsealed 0x1000")?;
    client.call("dma_map 0 0 0x1000")?;
    client.call("write 7 4 0400")?;
    client.call("write 2 0x30 10000000")?;
    client.call("write 2 0x34 03000000")?; // add up what is at 0
    assert_eq!(
        client.call("read 2 0x38 4")?,
        "02000e00",
        "failed with EFAULT: nothing is mapped"
    );
    let log = server.log();
    assert!(log.contains("F_SEAL_SHRINK"), "the log says why: {log}");
    Ok(())
}

/// C1 row 2: the crate waits for ever for the rest of an error reply. Our server is not held by that.
#[test]
fn crate_client_hangs_on_a_refused_read_and_the_next_client_is_served() -> Result<()> {
    let scratch = Scratch::new()?;
    let _server = test_device(&scratch.file("s"))?;
    let mut client = CrateClient::connect(&scratch.file("s"))?;
    let refused = client.call_within("read 2 0x1000 4", HANGS);
    assert!(refused.is_err(), "the crate survived: {refused:?}");
    drop(client);
    let mut next = CrateClient::connect(&scratch.file("s"))?;
    assert_eq!(next.call("read 2 0 4")?, "424c4b54");
    Ok(())
}
