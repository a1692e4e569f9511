//! The matrix as docs/isolation.md has it.

use std::fmt::Write;

use crate::attempts;
use crate::role::Role;

/// Tables, one for each subject.
pub(crate) fn matrix() -> String {
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
