//! What the guest does: look at the device, read, write where it may, then 1,000 reads for the figures.

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

/// The whole script; it writes to the disk only if `write`.
pub(crate) fn script(write: bool) -> String {
    [LOOK, if write { WRITE } else { "" }, TRANSFER].concat()
}
