//! What the facts of a device mean.

use super::super::config_space::Acs;
use super::super::usage::{Use, joined};
use super::device_facts::{DeviceFacts, Function};
use super::finding::Finding;

/// The smallest unit that can be mapped into a guest, in bytes: a page of x86-64.
const PAGE_BYTES: u64 = 4096;

/// One finding per question.
pub(super) fn judge(facts: &DeviceFacts) -> Vec<Finding> {
    vec![
        device(facts),
        driver(facts),
        group(facts),
        others(facts),
        acs(facts),
        reset(facts),
        function(facts),
        bars(facts),
        interrupts(facts),
        in_use(facts),
    ]
}

fn device(facts: &DeviceFacts) -> Finding {
    const SUBJECT: &str = "device";
    let address = facts.device.address;
    let text = format!("{address} {} ({})", facts.title, facts.class);
    if facts.is_bridge {
        return Finding::blocked(
            SUBJECT,
            format!("{text}: a bridge cannot be passed"),
            "pass the devices below it",
        );
    }
    if facts.boot_display {
        return Finding::warning(
            SUBJECT,
            format!("{text}: the host's console is on it"),
            "have another way to reach the host before you bind it",
        );
    }
    Finding::ok(SUBJECT, text)
}

fn driver(facts: &DeviceFacts) -> Finding {
    const SUBJECT: &str = "driver";
    let advice = format!("bulkhead-device-server host bind {}", facts.device.address);
    match (&facts.device.driver, facts.device.bound_to_vfio) {
        (Some(driver), true) => Finding::ok(SUBJECT, driver),
        (Some(driver), false) => {
            Finding::warning(SUBJECT, format!("{driver}, not vfio-pci yet"), advice)
        }
        (None, _) => Finding::warning(SUBJECT, "none, not vfio-pci yet", advice),
    }
}

fn group(facts: &DeviceFacts) -> Finding {
    const SUBJECT: &str = "group";
    match facts.device.group {
        None => Finding::blocked(
            SUBJECT,
            "in no IOMMU group",
            "turn the IOMMU on: see the line about it",
        ),
        Some(group) if facts.noiommu => Finding::blocked(
            SUBJECT,
            format!("{group}, which has no IOMMU behind it (no-IOMMU mode)"),
            "turn the IOMMU on: see the line about it",
        ),
        Some(group) => Finding::ok(SUBJECT, group.to_string()),
    }
}

fn others(facts: &DeviceFacts) -> Finding {
    const SUBJECT: &str = "others in the group";
    if facts.others.is_empty() {
        return Finding::ok(SUBJECT, "none");
    }
    let list: Vec<String> = facts
        .others
        .iter()
        .map(|other| {
            let driver = other.driver.as_deref().unwrap_or("no driver");
            format!("{} ({driver})", other.address)
        })
        .collect();
    let list = list.join(", ");
    let blocking = || facts.others.iter().filter(|other| !other.leaves_group);
    let used: Vec<String> = blocking()
        .filter(|other| !other.uses.is_empty())
        .map(|other| format!("{}: {}", other.address, joined(&other.uses)))
        .collect();
    if !used.is_empty() {
        return Finding::blocked(
            SUBJECT,
            format!("{list}; the host uses {}", used.join("; ")),
            "end that use, or put the device into another slot",
        );
    }
    if blocking().next().is_some() {
        return Finding::warning(
            SUBJECT,
            format!("{list}; all of them leave the host together"),
            format!(
                "bulkhead-device-server host bind --group {}",
                facts.device.address
            ),
        );
    }
    Finding::ok(SUBJECT, format!("{list}; none keeps the group from VFIO"))
}

/// ACS is what makes groups small. It is no obstacle as long as nobody else is in the group.
fn acs(facts: &DeviceFacts) -> Finding {
    const SUBJECT: &str = "acs";
    if facts.acs.is_empty() {
        return Finding::ok(SUBJECT, "no bridge above the device");
    }
    let named = |wanted: Acs| -> Vec<String> {
        let bridges = facts.acs.iter().filter(|(_, acs)| *acs == wanted);
        bridges.map(|(bridge, _)| bridge.to_string()).collect()
    };
    let missing = [named(Acs::Missing), named(Acs::Off)].concat();
    let unreadable = named(Acs::Unreadable);
    if !missing.is_empty() {
        let text = format!("not on in {}", missing.join(", "));
        if facts.others.is_empty() {
            return Finding::ok(
                SUBJECT,
                format!("{text}; the device is alone in its group all the same"),
            );
        }
        return Finding::warning(
            SUBJECT,
            format!("{text}, so the devices below share a group"),
            "turn ACS on in the firmware setup, or put the device into a slot of its own",
        );
    }
    if !unreadable.is_empty() {
        return Finding::warning(
            SUBJECT,
            format!("cannot be read from {}", unreadable.join(", ")),
            "run the check as root",
        );
    }
    Finding::ok(SUBJECT, "on in all bridges above the device")
}

fn reset(facts: &DeviceFacts) -> Finding {
    const SUBJECT: &str = "reset";
    match facts.reset_methods.as_deref() {
        Some("") | None => Finding::warning(
            SUBJECT,
            "the kernel cannot reset it: what one guest leaves in it, the next one finds",
            "pass it with allow-no-reset=on (device server: --allow-no-reset) to guests that trust each other",
        ),
        Some(methods) => Finding::ok(SUBJECT, methods),
    }
}

fn function(facts: &DeviceFacts) -> Finding {
    const SUBJECT: &str = "function";
    match facts.function {
        Function::Plain => Finding::ok(SUBJECT, "physical, without virtual functions"),
        Function::Virtual { of: Some(of) } => Finding::ok(SUBJECT, format!("virtual, of {of}")),
        Function::Virtual { of: None } => Finding::ok(SUBJECT, "virtual"),
        Function::Physical { enabled: 0, total } => Finding::ok(
            SUBJECT,
            format!("physical, can have {total} virtual functions"),
        ),
        Function::Physical { enabled, total } => Finding::warning(
            SUBJECT,
            format!(
                "physical, with {enabled} of {total} virtual functions, which end with its driver"
            ),
            format!(
                "pass those instead, or bulkhead-device-server host vfs {} 0",
                facts.device.address
            ),
        ),
    }
}

fn bars(facts: &DeviceFacts) -> Finding {
    const SUBJECT: &str = "bars";
    let texts: Vec<String> = facts
        .bars
        .iter()
        .map(|bar| {
            let kind = match (bar.io, bar.bytes < PAGE_BYTES) {
                (true, _) => "ports, never mapped",
                (false, true) => "memory below a page, never mapped",
                (false, false) => "memory",
            };
            format!("{}: {} {kind}", bar.index, size(bar.bytes))
        })
        .collect();
    let unassigned: Vec<String> = facts
        .bars
        .iter()
        .filter(|bar| !bar.assigned)
        .map(|bar| bar.index.to_string())
        .collect();
    if !unassigned.is_empty() {
        return Finding::blocked(
            SUBJECT,
            format!(
                "{}; the host has no address for {}",
                texts.join("; "),
                unassigned.join(", ")
            ),
            "turn on \"above 4G decoding\" in the firmware setup, or boot with pci=realloc",
        );
    }
    if texts.is_empty() {
        return Finding::ok(SUBJECT, "none");
    }
    Finding::ok(SUBJECT, texts.join("; "))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

fn interrupts(facts: &DeviceFacts) -> Finding {
    const SUBJECT: &str = "interrupts";
    let Some(found) = facts.interrupts else {
        return Finding::warning(SUBJECT, "cannot be read", "run the check as root");
    };
    let mut texts = Vec::new();
    if found.intx {
        texts.push("INTx".to_owned());
    }
    for (name, vectors) in [("MSI", found.msi), ("MSI-X", found.msix)] {
        if vectors > 0 {
            texts.push(format!("{name} {vectors}"));
        }
    }
    if texts.is_empty() {
        texts.push("none".to_owned());
    }
    Finding::ok(SUBJECT, texts.join(", "))
}

fn in_use(facts: &DeviceFacts) -> Finding {
    const SUBJECT: &str = "in use";
    // Virtual functions have a line of their own.
    let uses: Vec<Use> = facts
        .uses
        .iter()
        .filter(|found| !matches!(found, Use::VirtualFunctions { .. }))
        .cloned()
        .collect();
    let Some(first) = uses.first() else {
        return Finding::ok(SUBJECT, "by nobody");
    };
    Finding::blocked(SUBJECT, joined(&uses), format!("{} first", first.remedy()))
}
