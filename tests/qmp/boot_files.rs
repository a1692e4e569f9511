//! `set-boot-files`: another guest after the next reset, while the VMM opens no file.
//!
//! The guests say who they are, the first byte of their command line, and whether they have an initrd.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use harness::bare_guest::{self, HALT, RESET, after_a_byte, after_its_name};
use harness::deadline::{PROCESS, eventually};
use harness::proc_files;
use harness::qmp::Qmp;
use harness::scratch::Scratch;
use rustix::fs::{CWD, Mode};
use serde_json::{Value, json};

use crate::machine::Machine;

/// The images of a test, and the rules that allow some of them.
struct Images {
    scratch: Scratch,
    rules: Vec<String>,
}

impl Images {
    fn new() -> Result<Images> {
        let (scratch, rules) = (Scratch::new()?, Vec::new());
        Ok(Images { scratch, rules })
    }

    /// A path that the VM may have.
    fn allowed(&mut self, name: &str) -> String {
        let path = self.scratch.file(name);
        self.rules.push(format!("allow-image={path}"));
        path
    }

    /// A kernel that the VM may have, and that says this name and then does this.
    fn kernel(&mut self, name: char, program: &[u8]) -> Result<String> {
        let path = self.allowed(&name.to_string());
        let program = after_its_name(u8::try_from(name)?, program);
        bare_guest::write(&program, path.as_ref())?;
        Ok(path)
    }

    /// One that says A, and an initrd.
    fn kernel_and_initrd(&mut self) -> Result<(String, String)> {
        let (kernel, initrd) = (self.kernel('A', HALT)?, self.allowed("initrd"));
        fs::write(&initrd, [7; 10_000])?;
        Ok((kernel, initrd))
    }

    /// A VM that boots `program`.
    fn machine(&self, program: &[u8]) -> Result<Machine> {
        let mut arguments = vec!["-append", "first"];
        for rule in &self.rules {
            arguments.extend(["-device-policy", rule]);
        }
        Machine::start(&after_its_name(b'0', program), &arguments)
    }
}

fn said(machine: &Machine, expected: &str) -> Result<()> {
    let all = || {
        let text = machine.process.stdout().text();
        (text == expected).then_some(())
    };
    eventually("what the guests say", PROCESS, all)
        .with_context(|| format!("{:?}, not {expected:?}", machine.process.stdout().text()))
}

fn choose(arguments: &Value) -> String {
    json!({"execute": "set-boot-files", "arguments": arguments}).to_string()
}

fn reset(qmp: &mut Qmp) -> Result<()> {
    qmp.succeed(r#"{"execute":"system_reset"}"#)?;
    qmp.wait_for_event("RESET", PROCESS).map(drop)
}

fn chosen(qmp: &mut Qmp) -> Result<Value> {
    qmp.succeed(r#"{"execute":"query-boot-files"}"#)
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn chosen_kernel_is_booted_at_the_next_reset_and_at_those_after_it() -> Result<()> {
    let mut images = Images::new()?;
    let (kernel, initrd) = images.kernel_and_initrd()?;
    let machine = images.machine(HALT)?;
    let mut qmp = machine.client()?;
    said(&machine, "0f0")?;
    let before = chosen(&mut qmp)?;
    ensure!(before["in-force"]["append"] == "first", "{before}");
    ensure!(before.get("next").is_none(), "{before}");

    let choice = json!({"kernel": kernel, "initrd": initrd, "append": "second"});
    qmp.succeed(&choose(&choice))?;
    let waiting = chosen(&mut qmp)?;
    ensure!(waiting["next"] == choice, "{waiting}");
    ensure!(waiting["in-force"] == before["in-force"], "{waiting}");
    // What was looked at is what is booted, whatever becomes of the files.
    fs::remove_file(&kernel)?;
    fs::write(&initrd, [8; 5])?;
    reset(&mut qmp)?;
    said(&machine, "0f0As1")?;
    let after = chosen(&mut qmp)?;
    ensure!(after == json!({"in-force": choice}), "{after}");
    reset(&mut qmp)?;
    said(&machine, "0f0As1As1")?;
    machine.quit()
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn reset_by_the_guest_boots_the_last_choice_with_the_command_line_in_force() -> Result<()> {
    let mut images = Images::new()?;
    let first = images.kernel('A', HALT)?;
    let second = images.kernel('B', HALT)?;
    let mut machine = images.machine(&after_a_byte(RESET))?;
    let mut qmp = machine.client()?;
    said(&machine, "0f0")?;
    qmp.succeed(&choose(&json!({"kernel": first, "append": "x"})))?;
    qmp.succeed(&choose(&json!({"kernel": second})))?;
    machine.process.write_line("")?;
    qmp.wait_for_event("RESET", PROCESS)?;
    said(&machine, "0f0Bf0")?;
    machine.quit()
}

/// Each is refused, and the choice of before is what is booted.
#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn choice_that_cannot_be_booted_is_refused_and_changes_nothing() -> Result<()> {
    let mut images = Images::new()?;
    let good = images.kernel('A', HALT)?;
    let [missing, folder, fifo, empty, text, cut, large] =
        ["missing", "folder", "fifo", "empty", "text", "cut", "large"]
            .map(|name| images.allowed(name));
    let secret = images.scratch.file("secret");
    fs::copy(&good, &secret)?;
    fs::create_dir(&folder)?;
    rustix::fs::mkfifoat(CWD, &fifo, Mode::RUSR)?;
    fs::write(&empty, "")?;
    fs::write(&text, "no kernel".repeat(1000))?;
    let whole = fs::read(&good)?;
    fs::write(&cut, whole.get(..whole.len() - 1).context("a kernel")?)?;
    File::create(&large)?.set_len(65 << 20)?;
    let machine = images.machine(HALT)?;
    let mut qmp = machine.client()?;
    let choice = json!({"kernel": good, "append": "kept"});
    qmp.succeed(&choose(&choice))?;
    let remedy = format!("-device-policy allow-image={secret}");
    let dots = format!("{}/../secret", images.scratch.path().display());
    let long = format!("/{}", "x".repeat(1024));
    for (arguments, words) in [
        (json!({"kernel": secret}), remedy.as_str()),
        (json!({"kernel": good, "initrd": secret}), &remedy),
        (json!({"kernel": dots}), "is not one that this VM may have"),
        (json!({"kernel": "kernel"}), "write the whole path"),
        (json!({"kernel": long}), "at most 1024 bytes"),
        (json!({"kernel": "/a\u{0}b"}), "control character"),
        (json!({"kernel": missing}), "No such file"),
        (json!({"kernel": folder}), "is no regular file or is empty"),
        (json!({"kernel": fifo}), "is no regular file or is empty"),
        (json!({"kernel": empty}), "is no regular file or is empty"),
        (json!({"kernel": text}), "neither a bzImage nor"),
        (json!({"kernel": cut}), "the file is truncated"),
        (json!({"kernel": large}), "is larger than 64 MiB"),
        (json!({"kernel": good, "initrd": missing}), "No such file"),
        (
            json!({"kernel": good, "initrd": large}),
            "is larger than 64 MiB",
        ),
        (
            json!({"kernel": good, "append": "x".repeat(2048)}),
            "2048 bytes",
        ),
        (json!({"kernel": good, "append": "x\u{0}"}), "without zeros"),
        (json!({"kernel": good, "dtb": good}), "'dtb' is unexpected"),
        (json!({}), "'kernel' is missing"),
    ] {
        let (class, desc) = qmp.refused(&choose(&arguments))?;
        ensure!(class == "GenericError" && desc.contains(words), "{desc}");
    }
    let waiting = chosen(&mut qmp)?;
    ensure!(waiting["next"] == choice, "{waiting}");
    let log = machine.process.stderr().text();
    ensure!(
        log.contains(&remedy) && log.contains("image-refused"),
        "{log}"
    );
    reset(&mut qmp)?;
    said(&machine, "0f0Ak0")?;
    machine.quit()
}

/// What a process has open or mapped of images.
fn images_of(pid: u32) -> Result<(usize, usize)> {
    let is_image = |name: &str| name.contains("memfd:image");
    let open = proc_files::open_files(pid)?;
    let mapped = proc_files::mappings(pid)?;
    Ok((
        open.iter().filter(|name| is_image(name)).count(),
        mapped.iter().filter(|one| is_image(&one.name)).count(),
    ))
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn hundred_choices_leave_one() -> Result<()> {
    let mut images = Images::new()?;
    let (kernel, initrd) = images.kernel_and_initrd()?;
    let machine = images.machine(HALT)?;
    let mut qmp = machine.client()?;
    for _ in 0..100 {
        qmp.succeed(&choose(&json!({"kernel": kernel, "initrd": initrd})))?;
    }
    let supervisor = machine.process.pid();
    let family = machine.process.family()?;
    ensure!(family.len() == 2, "{family:?}");
    let vmm = family.into_iter().find(|pid| *pid != supervisor);
    let vmm = vmm.context("a VMM")?;
    // Closed at the supervisor as soon as it has read that: kernel and initrd of the last are left.
    eventually("the end of the others", PROCESS, || {
        (images_of(supervisor).ok()? == (2, 0)).then_some(())
    })?;
    let (open, mapped) = images_of(vmm)?;
    ensure!((open, mapped) == (0, 2), "{open} open, {mapped} mapped");
    // In force, and not needed twice.
    reset(&mut qmp)?;
    reset(&mut qmp)?;
    ensure!(images_of(vmm)? == (0, 2), "{:?}", images_of(vmm)?);
    qmp.succeed(&choose(&json!({"kernel": kernel})))?;
    reset(&mut qmp)?;
    ensure!(images_of(vmm)? == (0, 1), "{:?}", images_of(vmm)?);
    machine.quit()
}
