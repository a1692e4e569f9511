//! 64 MiB of junk on a QMP socket: the guest runs on, other clients are served, and nothing is kept of it.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use harness::bare_guest;
use harness::proc_files;

use crate::machine::Machine;

const MIB: usize = 1 << 20;
/// What the VMM may keep of a client, and some room for its threads.
const KEPT_BYTES: u64 = 8 << 20;
const DEADLINE: Duration = Duration::from_secs(120);

/// Kinds of junk; 64 MiB together.
fn junk() -> Vec<(&'static str, Vec<u8>)> {
    let words = |text: &[u8], bytes: usize| text.repeat(bytes / text.len());
    let mut state = 1_u32;
    let mut random = || {
        // Numerical Recipes' generator.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let mut all = vec![
        ("zeros", vec![0; 12 * MIB]),
        ("a long word", vec![b'x'; 12 * MIB]),
        (
            "a long string",
            [b"\"".to_vec(), vec![b' '; 12 * MIB]].concat(),
        ),
        ("white space", words(b" \t\r\n", 12 * MIB)),
        ("no depth", words(b"\n{{{{[[[[\"}]", 8 * MIB)),
        (
            "long lines",
            words(&[vec![b'z'; 4095], b"\n".to_vec()].concat(), 7 * MIB),
        ),
        ("brackets", vec![b']'; MIB / 16]),
    ];
    let so_far: usize = all.iter().map(|(_, bytes)| bytes.len()).sum();
    all.push(("random", (so_far..64 * MIB).map(|_| random()).collect()));
    all
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn sixty_four_mebibytes_of_junk_are_not_noticed() -> Result<()> {
    let machine = Machine::start(bare_guest::TICK, &[])?;
    let mut other = machine.client()?;
    let family = machine.process.family()?;
    let before = resident(&family)?;
    let stream = machine.connect()?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let reader = stream.try_clone()?;
    let drain = std::thread::spawn(move || {
        let mut answers = Vec::new();
        (&reader).read_to_end(&mut answers).map(|_| answers)
    });
    let mut sent = 0;
    for (kind, bytes) in junk() {
        for chunk in bytes.chunks(MIB) {
            (&stream).write_all(chunk).context(kind)?;
            sent += chunk.len();
        }
        let ticks = machine.process.stdout().text().len();
        other.succeed(r#"{"execute":"query-status"}"#)?;
        harness::deadline::eventually("the guest goes on", DEADLINE, || {
            (machine.process.stdout().text().len() > ticks).then_some(())
        })?;
    }
    ensure!(sent == 64 * MIB, "{sent} bytes");
    // The same connection still knows a request, once what came before it is at an end.
    (&stream).write_all(b"\n\x00\n{\"execute\":\"qmp_capabilities\",\"id\":\"alive\"}")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let answers = drain.join().map_err(|_| anyhow!("the reader died"))??;
    let tail = answers
        .rsplit(|byte| *byte == b'\n')
        .nth(1)
        .context("answers")?;
    ensure!(
        String::from_utf8_lossy(tail).contains(r#""id":"alive""#),
        "{}",
        String::from_utf8_lossy(tail)
    );
    let after = resident(&family)?;
    ensure!(
        after < before + KEPT_BYTES,
        "{before} bytes resident before, {after} after"
    );
    machine.quit()
}

/// Resident memory of all processes of the VM, in bytes.
fn resident(family: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in family {
        sum += proc_files::status_kib(*pid, "VmRSS")? * 1024;
    }
    Ok(sum)
}
