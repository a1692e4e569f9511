//! The network interfaces of a PCI device, and whether the default route goes through one of them.
//!
//! proc(5) for net/route and net/ipv6_route. Only our own network namespace is seen.

use std::path::Path;

use super::roots::Roots;
use super::usage::Use;

/// Interfaces stacked higher than this (VLAN on bridge on bond) are not followed.
const MAX_STACKED: usize = 8;

/// The interfaces that default routes name.
pub(super) fn default_routes(roots: &Roots) -> Vec<String> {
    let v4 = roots.proc_text("net/route").unwrap_or_default();
    let v6 = roots.proc_text("net/ipv6_route").unwrap_or_default();
    let mut names: Vec<String> = v4
        .lines()
        .skip(1)
        .filter_map(v4_default)
        .chain(v6.lines().filter_map(v6_default))
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// "Iface Destination Gateway Flags RefCnt Use Metric Mask ...".
fn v4_default(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let interface = words.next()?;
    let destination = words.next()?;
    let mask = words.nth(5)?;
    (destination == "00000000" && mask == "00000000").then_some(interface)
}

/// "destination prefix source prefix next-hop metric refcount use flags interface". `lo` has a route that rejects.
fn v6_default(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let destination = words.next()?;
    let prefix = words.next()?;
    let interface = words.nth(7)?;
    let all = destination.bytes().all(|digit| digit == b'0') && prefix == "00";
    (all && interface != "lo").then_some(interface)
}

/// The names of the interfaces of the device at `path` (canonical).
pub(super) fn interfaces(roots: &Roots, path: &Path) -> Vec<String> {
    let mut names = roots.sysfs.names("class/net");
    names.retain(|name| {
        let link = roots.sysfs.path(&format!("class/net/{name}"));
        link.canonicalize().is_ok_and(|real| real.starts_with(path))
    });
    names
}

/// Default routes that go through the device at `path` (canonical).
pub(super) fn uses(roots: &Roots, path: &Path, routes: &[String]) -> Vec<Use> {
    let mut uses = Vec::new();
    for interface in interfaces(roots, path) {
        let mut stack = vec![interface.clone()];
        let mut next = vec![interface.clone()];
        for _ in 0..MAX_STACKED {
            next = next.iter().flat_map(|name| above(roots, name)).collect();
            stack.extend(next.iter().cloned());
        }
        stack.dedup();
        for route in routes.iter().filter(|route| stack.contains(route)) {
            uses.push(Use::DefaultRoute {
                interface: interface.clone(),
                route: route.clone(),
            });
        }
    }
    uses
}

/// The interfaces that are stacked directly on `name`: sysfs links them as upper_NAME.
fn above(roots: &Roots, name: &str) -> Vec<String> {
    roots
        .sysfs
        .names(&format!("class/net/{name}"))
        .iter()
        .filter_map(|entry| entry.strip_prefix("upper_").map(str::to_owned))
        .collect()
}
