//! What the guests do. The first: look at the device, read, write where it may, then 1,000 reads for the figures. The second: use
//! what comes into its slot, and see that it is gone.

/// Reads whose cost is measured.
pub(crate) const READS: u64 = 1000;

const LOOK: &str = r#"
    show() { sed 's/^/SHOW /'; }
    echo "Linux $(uname -r) on $(nproc) CPUs sees:" | show
    lspci -nnk -s 00:03 | show
    tries=0
    until [ -e /dev/nvme0n1 ] || [ $tries -ge 50 ]; do tries=$((tries + 1)); sleep 0.1; done
    if [ -e /dev/nvme0n1 ]; then
        nvme list 2>/dev/null | show
        echo "block 0 begins with:" | show
        dd if=/dev/nvme0n1 bs=4096 count=1 iflag=direct 2>/dev/null | hexdump -C | head -n 3 | show
"#;

const WRITE: &str = r#"
        echo "written to block 9000, read back with the cache off:" | show
        echo "The guest was here." | dd of=/dev/nvme0n1 bs=4096 seek=9000 conv=sync oflag=direct 2>/dev/null
        dd if=/dev/nvme0n1 bs=4096 skip=9000 count=1 iflag=direct 2>/dev/null | hexdump -C | head -n 2 | show
"#;

const TRANSFER: &str = r#"
        echo "DISK yes"
        pause seen
        dd if=/dev/nvme0n1 of=/dev/null bs=4k count=1000 iflag=direct 2>/dev/null
        pause transferred
    else
        echo "DISK no"
        pause seen
    fi
    for driver in nvme eth serial; do
        count=$(interrupts $driver)
        [ "$count" = 0 ] || echo "INTERRUPTS $driver $count ($(interrupt_kind $driver | tr '\n' ' '))"
    done
"#;

/// For a guest that has the device from the start; it writes to the disk only if `write`.
pub(crate) fn script(write: bool) -> String {
    [LOOK, if write { WRITE } else { "" }, TRANSFER].concat()
}

/// The block that the second guest reads.
pub(crate) const PLUGGED_BLOCK: u64 = 77;

/// Behind the root port is bus 1. Linux says what it does with the slot, since nothing is quiet any more.
const PLUGGED: &str = r#"
    show() { sed 's/^/SHOW /'; }
    echo 7 >/proc/sys/kernel/printk
    pause waits
    device=/sys/bus/pci/devices/0000:01:00.0
    tries=0
    until [ -e $device/driver ] || [ $tries -ge 50 ]; do tries=$((tries + 1)); sleep 0.1; done
    lspci -nnk -s 01: | show
    case $(readlink $device/driver) in
    */nvme)
        wait_for /dev/nvme0n1
        echo "block BLOCK begins with:" | show
        dd if=/dev/nvme0n1 bs=4096 skip=BLOCK count=1 iflag=direct 2>/dev/null | hexdump -C | head -n 2 | show
        echo "RECORD $(block BLOCK)"
    esac
    pause used
    [ -e $device ] && { echo "still there: $(lspci -s 01:)"; exit 1; }
    echo "the slot is empty: $(lspci -s 01: | wc -l) devices behind the port" | show
"#;

/// For a guest whose device comes and goes.
pub(crate) fn plugged() -> String {
    PLUGGED.replace("BLOCK", &PLUGGED_BLOCK.to_string())
}
