//! Writes the man pages and the shell completions of `bulkhead-device-server` into a folder, for scripts/package.

use std::io;
use std::path::PathBuf;

use clap_complete::Shell;
use clap_complete::generate_to;

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("say into which folder"))?;
    let mut command = device_server::cli::command();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut command, "bulkhead-device-server", &folder)?;
    }
    clap_mangen::generate_to(command, &folder)
}
