//! `host check [ADDR]`: can this host, and this device, be used for passthrough? One line per question.
//!
//! `*_facts` reads what the kernel shows, `*_rules` says what that means: the rules are pure.

mod host_facts;
mod host_rules;
mod device_facts;
mod device_rules;
mod finding;

use std::io::Write;

use protocol::PciAddress;
use serde_json::json;

pub(crate) use finding::{Finding, Level};

use super::command::Format;
use super::error::HostError;
use super::roots::Roots;
use device_facts::DeviceFacts;
use host_facts::HostFacts;

/// Everything there is to say about the host, and about `address` if one is given.
pub(super) fn findings(
    roots: &Roots,
    address: Option<PciAddress>,
) -> Result<Vec<Finding>, HostError> {
    let mut findings = host_rules::judge(&HostFacts::read(roots));
    if let Some(address) = address {
        let facts = DeviceFacts::read(roots, address)?;
        findings.extend(device_rules::judge(&facts));
    }
    Ok(findings)
}

/// The worst level of all.
pub(super) fn overall(findings: &[Finding]) -> Level {
    findings
        .iter()
        .map(|finding| finding.level)
        .max()
        .unwrap_or(Level::Ok)
}

/// Prints the findings.
pub(super) fn print(
    findings: &[Finding],
    format: Format,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    match format {
        Format::Text => findings.iter().try_for_each(|finding| {
            let Finding {
                level,
                subject,
                text,
                advice,
            } = finding;
            writeln!(out, "{:<8} {subject}: {text}", level.name())?;
            if advice.is_empty() {
                return Ok(());
            }
            writeln!(out, "{:<8} -> {advice}", "")
        }),
        Format::Json => {
            let lines: Vec<_> = findings.iter().map(Finding::as_json).collect();
            let all = json!({ "status": overall(findings).name(), "findings": lines });
            writeln!(out, "{all}")
        }
    }
}

#[cfg(test)]
mod tests;
