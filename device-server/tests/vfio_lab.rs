//! The VFIO backend against a real kernel: `bulkhead-device-server vfio` in the lab, with `vfio-probe` as its client.
//!
//! One lab boot per test; the steps inside are a shell script that stops at the first that fails. Run them with
//! `cargo test -p device-server --test vfio_lab -- --ignored` (a minute), or through `scripts/test`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

/// What every script starts with: a server, its clients, and waiting with an end.
const PRELUDE: &str = r#"
set -eu
# wait_until COMMAND...: within 10 s.
wait_until() {
    tries=100
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "timed out: $*"; exit 1; }
        sleep 0.1
    done
}
field() { sed -n "s/^$2:[[:space:]]*\([0-9]*\) kB/\1/p" "/proc/$1/status"; }
# KiB of memory that DMA maps of process PID pin: type1 counts them as locked, iommufd as pinned.
pinned() { echo $(($(field "$1" VmLck) + $(field "$1" VmPin))); }
fail() { echo "failed: $*"; exit 1; }
# No mapping and no descriptor of client memory in process PID.
no_memfd() { ! grep memfd "/proc/$1/maps" && ! ls -l "/proc/$1/fd" | grep memfd; }
# Nothing of a client at all: no locked or pinned memory either.
nothing_held() { no_memfd "$1" && [ "$(pinned "$1")" = 0 ]; }
# refused TEXT COMMAND...: fails with status 1 and says TEXT on one line of stderr.
refused() {
    text=$1; shift
    status=0; "$@" 2> /tmp/refused || status=$?
    cat /tmp/refused
    [ $status = 1 ] && [ "$(wc -l < /tmp/refused)" = 1 ] && grep -qF "$text" /tmp/refused || fail "refused with $status: $*"
}
"#;

const ONE_CLIENT_AFTER_ANOTHER: &str = r#"
lab-bind 0000:00:04.0
bulkhead-device-server vfio --host 0000:00:04.0 --socket /tmp/n.sock & server=$!
wait_until test -S /tmp/n.sock
ls -l /proc/$server/fd | sed -n 's|.* \(/dev/[^ ]*\)$|way: \1|p' | grep -v null | sort -u
for check in info fresh filter fresh sleep fresh chunks nvme nvme-intx nvme-bounds fresh nvme; do
    echo "== $check"
    vfio-probe $check /tmp/n.sock
done
echo "== a client is killed while everything runs"
vfio-probe hold /tmp/n.sock > /tmp/hold & client=$!
wait_until grep -q holding /tmp/hold
# DMA is mapped (2 MiB are pinned), and still the server maps nothing and holds no memfd.
[ "$(pinned $server)" = 2048 ] || fail "2 MiB should be pinned for DMA, not $(pinned $server) KiB"
no_memfd $server || fail "the server holds client memory"
! no_memfd $client > /tmp/seen || fail "the check does not see what it looks for"
kill -9 $client
vfio-probe fresh /tmp/n.sock
vfio-probe nvme /tmp/n.sock
wait_until nothing_held $server
echo "== a client lets go of a BAR late"
vfio-probe linger /tmp/n.sock
echo "== a second server, while a client is served"
vfio-probe hold /tmp/n.sock > /tmp/hold & client=$!
wait_until grep -q holding /tmp/hold
refused "group 1 is served already by pid $server" bulkhead-device-server vfio --host 0000:00:04.0 --socket /tmp/m.sock
kill -9 $client
vfio-probe fresh /tmp/n.sock
[ ! -e /tmp/m.sock ] || fail "a socket file is left"
echo "== the end"
kill $server
wait $server
[ ! -e /tmp/n.sock ] || fail "the socket file is left"
echo "== a client that never lets go of a BAR ends the service"
bulkhead-device-server vfio --host 0000:00:04.0 --socket /tmp/k.sock 2> /tmp/kept.log & server=$!
touch /tmp/keep
vfio-probe keep /tmp/k.sock > /tmp/keep & client=$!
wait_until grep -q keeping /tmp/keep
status=0; wait $server || status=$?
tail -n 2 /tmp/kept.log
[ $status = 1 ] || fail "the server ended with $status"
# The sandboxed server has no /proc to name the culprit; the next start does, below.
grep -q "it is not given to another" /tmp/kept.log || fail "the reason is not named"
[ ! -e /tmp/k.sock ] || fail "the socket file is left"
refused "group 1 is served already by pid $client (vfio-probe)" bulkhead-device-server vfio --host 0000:00:04.0 --socket /tmp/k.sock
kill -9 $client
lab-unbind 0000:00:04.0
wait_until test -b /dev/nvme0n1
echo "host has it again"
"#;

const INHERITED_GROUP: &str = r#"
lab-bind 0000:00:05.0
exec 7<> /dev/vfio/vfio 8<> /dev/vfio/2
bulkhead-device-server vfio --host 0000:00:05.0 --socket /tmp/e.sock --container-fd 7 --group-fd 8 & server=$!
exec 7>&- 8>&-
vfio-probe info /tmp/e.sock
vfio-probe chunks /tmp/e.sock
vfio-probe sleep /tmp/e.sock
vfio-probe fresh /tmp/e.sock
wait_until nothing_held $server
kill $server
wait $server
"#;

/// On the kernel with both ways to the IOMMU.
const IOMMUFD: &str = r#"
serve() { bulkhead-device-server vfio --host 0000:00:04.0 "$@"; }
lab-bind 0000:00:04.0
node=/dev/vfio/devices/$(ls /sys/bus/pci/devices/0000:00:04.0/vfio-dev)
echo "== type1 where iommufd would do"
bulkhead-device-server vfio --host 0000:00:04.0 --iommu-backend type1 --socket /tmp/t.sock & server=$!
vfio-probe nvme /tmp/t.sock
ls -l /proc/$server/fd | grep /dev/vfio/vfio
# The group stays open between two clients, so nobody else has the device even then.
refused "group 1 is served already by pid $server" serve --iommu-backend iommufd --socket /tmp/x.sock
kill $server
wait $server
echo "== what cannot be"
exec 7<> /dev/iommu 8<> $node
refused "which serves one client" serve --iommufd-fd 7 --socket /tmp/x.sock --device-fd 8
refused "the descriptors belong together" serve --iommufd-fd 7 --socket /tmp/x.sock
refused "type1 needs other descriptors" serve --iommufd-fd 7 --iommu-backend type1 --socket /tmp/x.sock --device-fd 8
exec 7>&- 8>&-
echo Y > /sys/module/iommufd/parameters/allow_unsafe_interrupts
refused "iommufd is loaded with allow_unsafe_interrupts=Y" serve --socket /tmp/x.sock
echo N > /sys/module/iommufd/parameters/allow_unsafe_interrupts
[ ! -e /tmp/x.sock ] || fail "a socket file is left"
"#;

const TWO_DEVICES_OF_ONE_GROUP: &str = r#"
lab-bind 0000:00:0a.0 0000:00:0a.1
refused "0000:00:0a.0 cannot be reset" bulkhead-device-server vfio --host 0000:00:0a.0 --socket /tmp/a.sock
bulkhead-device-server vfio --allow-no-reset --host 0000:00:0a.0 --socket /tmp/a.sock \
    --host 0000:00:0a.1 --socket /tmp/b.sock & server=$!
vfio-probe info /tmp/a.sock
vfio-probe info /tmp/b.sock
vfio-probe shared /tmp/a.sock /tmp/b.sock
vfio-probe shared /tmp/b.sock /tmp/a.sock
wait_until nothing_held $server
kill $server
wait $server
"#;

const REFUSALS: &str = r#"
serve() { bulkhead-device-server vfio "$@" --socket /tmp/x.sock; }
refused "in use by the host's driver nvme" serve --host 0000:00:04.0
refused "the host has no PCI device 0000:00:19.0" serve --host 0000:00:19.0
lab-bind 0000:00:04.0 0000:00:05.0
refused "open /dev/iommu for 0000:00:04.0 (load the modules" serve --host 0000:00:04.0 --iommu-backend iommufd
refused "start one server per group" serve --host 0000:00:04.0 --socket /tmp/y.sock --host 0000:00:05.0
echo Y > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
refused "allow_unsafe_interrupts=Y" serve --host 0000:00:04.0
echo N > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
lab-bind 0000:00:0a.0
refused "0000:00:0a.1 is bound to serial; bind it to vfio-pci or pass it too" serve --allow-no-reset --host 0000:00:0a.0
[ ! -e /tmp/x.sock ] && [ ! -e /tmp/y.sock ] || fail "a socket file is left"
"#;

const NO_INTERRUPT_REMAPPING: &str = r#"
lab-bind 0000:00:04.0
refused "cannot remap interrupts" bulkhead-device-server vfio --host 0000:00:04.0 --socket /tmp/x.sock
"#;

const NO_IOMMU: &str = r#"
refused "the IOMMU is off" bulkhead-device-server vfio --host 0000:00:04.0 --socket /tmp/x.sock
"#;

const SERIAL_PAIR: [&str; 4] = [
    "--device",
    "pci-serial,addr=0xa.0,multifunction=on",
    "--device",
    "pci-serial-2x,addr=0xa.1",
];

#[test]
#[ignore = "needs the lab"]
fn nvme_is_given_from_client_to_client_on_linux_6_1() -> Result<()> {
    let output = lab(&["--kernel", "6.1"], ONE_CLIENT_AFTER_ANOTHER)?;
    assert_contains(
        &output,
        "chunks: 65 vectors bound 3 at a time, each fires its own eventfd (IrqInfoFlags(EVENTFD | NORESIZE))",
    );
    assert_nvme_worked(&output);
    Ok(())
}

#[test]
#[ignore = "needs the lab"]
fn nvme_is_given_from_client_to_client_on_linux_7() -> Result<()> {
    let output = lab(&["--kernel", "7"], ONE_CLIENT_AFTER_ANOTHER)?;
    assert_contains(
        &output,
        "chunks: 65 vectors bound 3 at a time, each fires its own eventfd (IrqInfoFlags(EVENTFD))",
    );
    assert_nvme_worked(&output);
    Ok(())
}

#[test]
#[ignore = "needs the lab"]
fn nvme_is_given_from_client_to_client_through_iommufd() -> Result<()> {
    let output = lab(
        &["--kernel", "iommufd"],
        &[ONE_CLIENT_AFTER_ANOTHER, IOMMUFD].concat(),
    )?;
    assert_nvme_worked(&output);
    assert_contains(&output, "way: /dev/iommu\nway: /dev/vfio/devices");
    Ok(())
}

#[test]
#[ignore = "needs the lab"]
fn e1000e_is_served_from_inherited_descriptors() -> Result<()> {
    let output = lab(&["--kernel", "7"], INHERITED_GROUP)?;
    assert_contains(&output, "chunks: 5 vectors");
    Ok(())
}

#[test]
#[ignore = "needs the lab"]
fn two_devices_of_one_group_share_their_memory_only_with_the_same_vm() -> Result<()> {
    let mut arguments = vec!["--kernel", "6.1"];
    arguments.extend(SERIAL_PAIR);
    let output = lab(&arguments, TWO_DEVICES_OF_ONE_GROUP)?;
    assert_contains(&output, "shared: same memory is counted");
    Ok(())
}

#[test]
#[ignore = "needs the lab"]
fn devices_that_must_not_be_served_are_refused_by_name() -> Result<()> {
    let mut arguments = vec!["--kernel", "6.1"];
    arguments.extend(SERIAL_PAIR);
    lab(&arguments, REFUSALS)?;
    Ok(())
}

#[test]
#[ignore = "needs the lab"]
fn iommu_without_interrupt_remapping_is_refused_both_ways() -> Result<()> {
    for kernel in ["7", "iommufd"] {
        lab(
            &["--kernel", kernel, "--iommu", "intel-no-ir"],
            NO_INTERRUPT_REMAPPING,
        )?;
    }
    Ok(())
}

#[test]
#[ignore = "needs the lab"]
fn machine_without_iommu_is_refused() -> Result<()> {
    lab(&["--kernel", "7", "--iommu", "none"], NO_IOMMU)?;
    Ok(())
}

/// Boots the lab with our binaries, runs the script in it, and gives back what it printed. The script must succeed.
fn lab(arguments: &[&str], script: &str) -> Result<String> {
    let server = Path::new(env!("CARGO_BIN_EXE_bulkhead-device-server"));
    let binaries = server.parent().context("no folder")?;
    let output = Command::new(root().join("scripts/lab"))
        .args(arguments)
        .arg("--copy-in")
        .arg(built_probe(binaries)?)
        .args(["--timeout", "240", "--", "sh", "-c"])
        .arg(format!("{PRELUDE}{script}"))
        .env("BULKHEAD_BIN_DIR", binaries)
        .env("LAB_OUT", log_folder())
        .output()
        .context("run scripts/lab")?;
    let text = printed(&output);
    println!("{text}");
    ensure!(
        output.status.success(),
        "the lab ended with {}",
        output.status
    );
    Ok(text)
}

/// The client. Cargo builds it for `cargo test`, but not for `cargo test --test vfio_lab`: an old one must not be used.
fn built_probe(binaries: &Path) -> Result<PathBuf> {
    let profile = if binaries.ends_with("release") {
        "release"
    } else {
        "dev"
    };
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            "device-server",
            "--example",
            "vfio-probe",
        ])
        .args(["--profile", profile, "--target-dir"])
        .arg(binaries.parent().context("no folder")?)
        .current_dir(root())
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "vfio-probe does not compile");
    Ok(binaries.join("examples/vfio-probe"))
}

fn assert_nvme_worked(output: &str) {
    assert_contains(
        output,
        "identify: model \"QEMU NVMe Ctrl\", serial \"bulkhead-lab\", by Msix",
    );
    assert_contains(
        output,
        "identify: model \"QEMU NVMe Ctrl\", serial \"bulkhead-lab\", by Intx",
    );
    assert_contains(
        output,
        "bounds: nothing arrived; map RAM for DMA: the device server refused DMA_MAP: ",
    );
    assert_contains(
        output,
        "region 0: size 0x4000, RegionFlags(READ | WRITE | MMAP | CAPS), areas [SparseArea { offset: 0, size: 2000 }]",
    );
    assert_contains(output, "host has it again");
}

fn assert_contains(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "not in the output: {wanted}");
}

fn printed(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where the lab leaves its logs: one folder per test thread, below the build's own.
fn log_folder() -> PathBuf {
    let name = std::thread::current()
        .name()
        .unwrap_or("vfio_lab")
        .to_owned();
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}
