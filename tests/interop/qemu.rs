//! Our server with the test device, and QEMU's vfio-user-pci client: a Linux guest under software emulation uses it.
//!
//! The guest has no driver for the device. It reaches its BARs, and memory that its kernel was told to leave alone, through
//! /dev/mem. A message-signalled interrupt is a write to memory: the guest aims vector 0 at that memory and looks. For the pin it
//! looks at the old interrupt controller's request register, which shows a line also while it is masked.

use anyhow::{Result, ensure};
use harness::deadline::{GUEST_RUN, PROCESS};
use harness::guest::GuestReport;
use harness::process::Process;
use harness::scratch::Scratch;
use harness::{initrd, peer_qemu, proc_files};

use crate::peer::{CrateClient, test_device};

/// Memory of the guest that its kernel does not use: 1 MiB at 256 MiB. Interrupt pins go to the old controllers.
const APPEND: &str = "console=ttyS0 panic=-1 quiet noapic memmap=1M$0x10000000";

/// What the guest does. `register NAME OFFSET` prints a register of BAR2; OFFSETs are those of docs/test-device.md.
const SCRIPT: &str = r#"
device=0000:00:10.0
sys=/sys/bus/pci/devices/$device
echo IDENTITY $(lspci -n -s $device | cut -d ' ' -f 3)
echo 1 > $sys/enable
setpci -s $device COMMAND=6:6
bar() { awk "NR == $1 + 1 { print \$1 }" $sys/resource; }
memory() { echo $1 $(devmem $2); }
register() { memory $1 $(($(bar 2) + $2)); }
set_register() { devmem $(($(bar 2) + $1)) 32 $2; }
# waits until devmem shows $2 at $1
await() { tries=0; until [ $(devmem $1) = $2 ] || [ $tries -gt 50 ]; do tries=$((tries + 1)); sleep 0.1; done; }
# IRQ 10 and 11 of the second 8259, where q35's firmware puts the pins: OCW3 0x0a, then the request register
pins() {
    printf '\012' | dd of=/dev/port bs=1 seek=160 conv=notrunc 2>/dev/null
    echo $((0x$(dd if=/dev/port bs=1 skip=160 count=1 2>/dev/null | hexdump -e '1/1 "%02x"') & 0x0c))
}
pins_are() { tries=0; until [ $(($(pins) != 0)) = $1 ] || [ $tries -gt 50 ]; do tries=$((tries + 1)); sleep 0.1; done; }

register ID 0
set_register 8 0x12345678
register SCRATCH 8
devmem $(($(bar 0) + 0x1ffffc)) 32 0xcafe0001
memory BAR0 $(($(bar 0) + 0x1ffffc))
register BAR0_MESSAGES 0x1c
register RESETS 0x18
echo PORT $(dd if=$sys/resource4 bs=4 count=1 2>/dev/null | hexdump -e '1/4 "0x%08X"')

devmem 0x10000ffc 32 0xfeedbeef
set_register 0x20 0x10000000
set_register 0x28 0x10001000
set_register 0x30 0x1000
set_register 0x34 1
register DMA_STATUS 0x38
memory COPIED 0x10001ffc

echo PINS_BEFORE $(pins)
set_register 0x14 1
pins_are 1
echo PINS_RAISED $(($(pins) != 0))
set_register 0x14 0
pins_are 0
echo PINS_LOWERED $(pins)

devmem $(bar 1) 32 0x10002000
devmem $(($(bar 1) + 4)) 32 0
devmem $(($(bar 1) + 8)) 32 0xb01d
devmem $(($(bar 1) + 12)) 32 0
setpci -s $device CAP_MSIX+2.w=8000:c000
memory BEFORE 0x10002000
set_register 0x10 0x20000
await 0x10002000 0x0000B01D
memory INTERRUPT 0x10002000
setpci -s $device CAP_MSIX+2.w=0:8000

setpci -s $device CAP_MSI+4.l=10002010 CAP_MSI+8.l=0 CAP_MSI+c.w=b02d CAP_MSI+2.w=1:71
memory MSI_BEFORE 0x10002010
set_register 0x10 0x10000
await 0x10002010 0x0000B02D
memory MSI 0x10002010
"#;

fn boot(scratch: &Scratch, socket: &str) -> Result<GuestReport> {
    let (lab_initrd, initrd) = (scratch.file("lab-initrd"), scratch.file("initrd"));
    let peer_qemu::Machine {
        mut command,
        kernel,
    } = peer_qemu::machine(&lab_initrd)?;
    let script = ("lab-script".to_owned(), SCRIPT.as_bytes().to_vec());
    initrd::extend(lab_initrd.as_ref(), &[script], initrd.as_ref())?;
    let device = serde_json::json!({
        "driver": "vfio-user-pci", "id": "device", "addr": "0x10", "socket": { "type": "unix", "path": socket },
    });
    command.args([
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "512",
        "-nodefaults",
        "-display",
        "none",
    ]);
    command.args([
        "-object",
        "memory-backend-memfd,id=memory,size=512M,share=on",
    ]);
    command.args([
        "-M",
        "q35,memory-backend=memory",
        "-no-reboot",
        "-monitor",
        "none",
        "-serial",
        "stdio",
    ]);
    command.args(["-kernel", &kernel, "-initrd", &initrd, "-append", APPEND]);
    command.args(["-device", &device.to_string()]);
    let mut process = Process::start("QEMU", &mut command)?;
    let status = process.wait(GUEST_RUN)?;
    ensure!(
        status.success(),
        "QEMU: {status}: {}",
        process.stderr().text()
    );
    GuestReport::parse(&process.stdout().text())?.succeeded()
}

#[test]
#[ignore = "boots QEMU >= 10.1: scripts/test"]
fn qemu_guest_uses_the_test_device() -> Result<()> {
    let scratch = Scratch::new()?;
    let socket = scratch.file("s");
    let server = test_device(&socket)?;
    let held = proc_files::open_files(server.pid())?;

    let report = boot(&scratch, &socket)?;

    assert_eq!(report.value("IDENTITY")?, "1d1d:b001");
    assert_eq!(report.value("ID")?, "0x544B4C42", "BLKT");
    assert_eq!(report.value("SCRATCH")?, "0x12345678");
    assert_eq!(report.value("BAR0")?, "0xCAFE0001");
    assert_eq!(
        report.value("BAR0_MESSAGES")?,
        "0x00000000",
        "BAR0 is mapped"
    );
    assert_ne!(
        report.value("RESETS")?,
        "0x00000000",
        "QEMU resets it at the start"
    );
    assert_eq!(
        report.value("PORT")?,
        "0x544B4C42",
        "the ID through the I/O BAR"
    );
    assert_eq!(report.value("DMA_STATUS")?, "0x00000001", "done");
    assert_eq!(report.value("COPIED")?, "0xFEEDBEEF");
    assert_eq!(report.value("BEFORE")?, "0x00000000");
    assert_eq!(report.value("INTERRUPT")?, "0x0000B01D", "MSI-X vector 0");
    assert_eq!(report.value("MSI_BEFORE")?, "0x00000000");
    assert_eq!(report.value("MSI")?, "0x0000B02D", "MSI vector 0");
    assert_eq!(report.value("PINS_BEFORE")?, "0");
    assert_eq!(report.value("PINS_RAISED")?, "1", "INTx");
    assert_eq!(report.value("PINS_LOWERED")?, "0");
    // Nothing of it is left, and the next client is served.
    let mut next = CrateClient::connect(&socket)?;
    assert_eq!(next.call("read 2 8 4")?, "00000000", "SCRATCH");
    drop(next);
    harness::deadline::eventually("the server lets go", PROCESS, || {
        (proc_files::open_files(server.pid()).ok()? == held).then_some(())
    })
}
