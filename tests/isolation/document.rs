//! The matrix as docs/isolation.md has it.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};

use crate::attempts;
use crate::role::Role;

/// Tables, one for each subject.
fn matrix() -> String {
    let mut text = String::new();
    for (subject, rows) in attempts::all() {
        let head = format!(
            "| {subject} | supervisor | VMM, virtual CPU | VMM, attaching | server, type1 | server, iommufd |"
        );
        let _ = writeln!(text, "{head}\n|---|---|---|---|---|---|");
        for row in rows {
            let cells = Role::ALL.map(|role| {
                let layers: Vec<String> = row
                    .stopped_by(role)
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                if layers.is_empty() {
                    "-".to_owned()
                } else {
                    layers.join(", ")
                }
            });
            let name = row
                .needs
                .map_or_else(|| row.name.to_owned(), |_| format!("{} \\*", row.name));
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text.push('\n');
    }
    text
}

/// Compares it with the document. `WRITE_ISOLATION=1` writes it anew.
pub(crate) fn is_up_to_date() -> Result<()> {
    const BEGIN: &str = "<!-- matrix: begin -->\n";
    const END: &str = "<!-- matrix: end -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/isolation.md");
    let text = std::fs::read_to_string(path)?;
    let (before, rest) = text.split_once(BEGIN).context("where the matrix begins")?;
    let (shown, after) = rest.split_once(END).context("where it ends")?;
    if std::env::var_os("WRITE_ISOLATION").is_some() {
        let text = format!("{before}{BEGIN}{}{END}{after}", matrix());
        std::fs::write(path, text)?;
        return Ok(());
    }
    ensure!(
        shown == matrix(),
        "WRITE_ISOLATION=1 cargo test -p tests --test isolation writes it anew"
    );
    Ok(())
}
