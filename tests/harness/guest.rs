//! What the guest shall run, and what it said.
//!
//! The lab's initrd (scripts/lab-support/files/guest-init) prints GUEST-READY, runs /lab-script with its output on
//! the console, prints "GUEST-EXIT status" and powers off. A script talks to its test through the console: it says
//! "MARK name" and waits for a line with `read` (see `Guest::PAUSE`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{initrd, programs};

const READY: &str = "GUEST-READY";
const EXIT: &str = "GUEST-EXIT ";
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";
/// A guest under two emulations has booted in nine tenths of the time with these: no relocation of the
/// kernel, no tests of clocks, timers and ciphers. What a test asks of a guest does not depend on them.
const FEWER_TESTS_AT_BOOT: &str = "nokaslr tsc=reliable no_timer_check cryptomgr.notests";

/// Shell functions that every script may use.
const PRELUDE: &str = include_str!("guest_prelude.sh");

/// Runs what comes over the console, one line at a time.
pub const OBEY: &str = r#"
    number=0
    echo "OBEY"
    while read -r line </dev/ttyS0; do
        [ "$line" = leave ] && break
        eval "$line"
        echo "DONE $number $?"
        number=$((number + 1))
    done
"#;

/// A kernel, its command line, and a script.
#[derive(Debug, Clone)]
pub struct Guest {
    script: String,
    append: String,
    kernel: PathBuf,
    initrd: PathBuf,
    with_probe: bool,
    plain: bool,
}

impl Guest {
    /// A guest with Debian's cloud kernel, which has the NVMe driver; as an ELF file, which has nothing to decompress.
    pub fn running(script: &str) -> Self {
        Self {
            script: format!("{PRELUDE}{script}\n"),
            append: KERNEL_COMMAND_LINE.to_owned(),
            kernel: environment_path("LAB_GUEST_VMLINUX"),
            initrd: environment_path("LAB_GUEST_INITRD"),
            with_probe: false,
            plain: false,
        }
    }

    /// With Debian's generic kernel, which starts slower and has drivers for all devices.
    pub fn with_all_drivers(mut self) -> Self {
        self.kernel = environment_path("LAB_GUEST_KERNEL_GENERIC");
        self.initrd = environment_path("LAB_GUEST_INITRD_GENERIC");
        self
    }

    /// With nothing on the kernel command line that makes the boot shorter.
    pub fn with_plain_boot(mut self) -> Self {
        self.plain = true;
        self
    }

    /// With the kernel as Debian ships it, a bzImage.
    pub fn as_bzimage(mut self) -> Self {
        self.kernel = environment_path("LAB_GUEST_KERNEL");
        self
    }

    /// With more words on the kernel command line.
    pub fn append(mut self, words: &str) -> Self {
        self.append = format!("{} {words}", self.append);
        self
    }

    /// With the program /guest-probe (tests/guest).
    pub fn with_probe(mut self) -> Self {
        self.with_probe = true;
        self
    }

    /// What boots this guest; the initrd is made in `folder`.
    pub fn boot_files(&self, folder: &Path) -> Result<BootFiles> {
        let initrd = folder.join("initrd");
        let mut files = vec![("lab-script".to_owned(), self.script.clone().into_bytes())];
        if self.with_probe {
            files.push((
                programs::GUEST_PROBE.to_owned(),
                fs::read(programs::find(programs::GUEST_PROBE)?)?,
            ));
        }
        initrd::extend(&self.initrd, &files, &initrd)?;
        let append = if self.plain {
            self.append.clone()
        } else {
            format!("{FEWER_TESTS_AT_BOOT} {}", self.append)
        };
        Ok(BootFiles {
            kernel: self.kernel.display().to_string(),
            initrd: initrd.display().to_string(),
            append,
        })
    }

    /// The VMM's arguments that boot this guest; the initrd is made in `folder`.
    pub fn arguments(&self, folder: &Path) -> Result<Vec<String>> {
        let boot = self.boot_files(folder)?;
        let words = [
            "-kernel",
            &boot.kernel,
            "-initrd",
            &boot.initrd,
            "-append",
            &boot.append,
        ];
        Ok(words.map(str::to_owned).to_vec())
    }
}

fn environment_path(name: &str) -> PathBuf {
    std::env::var_os(name)
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(format!("(${name} is not set)")))
}

/// What a guest boots from, as options and QMP take it.
#[derive(Debug, Clone)]
pub struct BootFiles {
    pub kernel: String,
    pub initrd: String,
    pub append: String,
}

/// What a guest printed, from its first line on.
#[derive(Debug, Clone)]
pub struct GuestReport {
    console: String,
    status: i32,
}

impl GuestReport {
    /// Reads it from the console of a guest that powered off.
    pub fn parse(console: &str) -> Result<Self> {
        let status = console
            .lines()
            .find_map(|line| line.strip_prefix(EXIT))
            .with_context(|| {
                format!(
                    "the guest said no {EXIT:?}; its console:\n{}",
                    crate::console::tail(console)
                )
            })?;
        Ok(Self {
            console: console.to_owned(),
            status: status.trim().parse()?,
        })
    }

    /// The value of the first line "name value"; an error says what the guest printed instead.
    pub fn value(&self, name: &str) -> Result<&str> {
        let first = self.values(name).into_iter().next();
        first.with_context(|| format!("the guest said no {name:?}; its output:\n{}", self.output()))
    }

    /// The values of all lines "name value".
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.console
            .lines()
            .filter_map(|line| Some(line.strip_prefix(name)?.strip_prefix(' ')?.trim()))
            .collect()
    }

    /// The value of "name value" as a number.
    pub fn number(&self, name: &str) -> Result<u64> {
        let value = self.value(name)?;
        value
            .parse()
            .with_context(|| format!("{name:?} is not a number: {value:?}"))
    }

    /// What the script printed.
    pub fn output(&self) -> &str {
        self.console
            .split_once(READY)
            .map_or(self.console.as_str(), |(_, after)| after)
    }

    /// An error unless the script ended with status 0.
    pub fn succeeded(self) -> Result<Self> {
        ensure!(
            self.status == 0,
            "the guest's script ended with {}; its output:\n{}",
            self.status,
            self.output()
        );
        Ok(self)
    }
}
