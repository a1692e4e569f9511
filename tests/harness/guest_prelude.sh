# Shell functions for the scripts that tests run in a guest.

# pause NAME: tells the test "MARK NAME" and waits until it answers with a line.
pause() {
    echo "MARK $1"
    read -r answer </dev/ttyS0
}

# wait_for PATH: waits until a driver made PATH.
wait_for() {
    tries=0
    until [ -e "$1" ]; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "MISSING $1"; dmesg | tail -n 30; exit 1; }
        sleep 0.1
    done
}

# block NUMBER: the records of a 4 KiB block of the NVMe disk in hexadecimal, equal ones once.
block() {
    dd if=/dev/nvme0n1 bs=4096 skip="$1" count=1 iflag=direct 2>/dev/null | hexdump -v -e '16/1 "%02x" "\n"' | sort -u
}

# interrupts WORD: how many interrupts the lines of /proc/interrupts with WORD count, on all CPUs.
interrupts() {
    awk -v word="$1" '$0 ~ word { for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+$/) sum += $i } END { print sum + 0 }' /proc/interrupts
}

# interrupt_kind WORD: the interrupt controllers of these lines.
interrupt_kind() {
    awk -v word="$1" '$0 ~ word { for (i = 2; i <= NF; i++) if ($i !~ /^[0-9]+$/) { print $i; break } }' /proc/interrupts | sort -u
}
