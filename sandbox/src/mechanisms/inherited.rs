//! What a service manager has done already: looked at, as this process finds it.
//!
//! Each row is something that this program would have done by itself when started by hand, and that it cannot do, or undo, without
//! privilege. Not looked at: namespaces that a manager has no setting for in every version (processes, users, cgroups).

use std::io;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{getresgid, getresuid};
use rustix::thread::{CapabilitySet, capability_is_in_bounding_set};

use super::MechanismError;

type Found = (&'static str, Result<String, MechanismError>);

/// Everything that is looked at, and how it is. The errors name systemd's settings, since that is what most people have.
pub fn find() -> Vec<Found> {
    vec![
        ("identity", identity()),
        ("bounding set", bounding_set()),
        ("privileges as found", no_new_privileges()),
        ("root", root()),
        ("net namespace", no_network()),
        ("ipc namespace", differs("ipc", "PrivateIPC=yes")),
        ("uts namespace", differs("uts", "ProtectHostname=yes")),
    ]
}

fn refused(step: &'static str, advice: String) -> MechanismError {
    MechanismError::new(step, io::Error::other(advice))
}

fn identity() -> Result<String, MechanismError> {
    let step = "be a user of its own";
    let uids = getresuid().map_err(MechanismError::at(step))?;
    let gids = getresgid().map_err(MechanismError::at(step))?;
    let root = [uids.real, uids.effective, uids.saved]
        .iter()
        .any(|uid| uid.is_root());
    let root_group = [gids.real, gids.effective, gids.saved]
        .iter()
        .any(|gid| gid.as_raw() == 0);
    if root || root_group {
        let advice = "it runs as root (User= and Group= are missing)";
        return Err(refused(step, advice.to_owned()));
    }
    Ok(format!("uid {}, gid {}", uids.real, gids.real))
}

fn bounding_set() -> Result<String, MechanismError> {
    let step = "have no capability that exec could give back";
    let held = |capability: &CapabilitySet| capability_is_in_bounding_set(*capability) == Ok(true);
    let held: Vec<_> = CapabilitySet::all().iter().filter(held).collect();
    if held.is_empty() {
        return Ok("empty".to_owned());
    }
    let advice = format!(
        "{} are left in the bounding set (CapabilityBoundingSet= without a value is missing)",
        held.len()
    );
    Err(refused(step, advice))
}

fn no_new_privileges() -> Result<String, MechanismError> {
    let step = "gain none by exec";
    let set = rustix::thread::no_new_privs().map_err(MechanismError::at(step))?;
    if set {
        return Ok("no new ones".to_owned());
    }
    let advice = "exec could give some (NoNewPrivileges=yes is missing)";
    Err(refused(step, advice.to_owned()))
}

fn root() -> Result<String, MechanismError> {
    let step = "see a read-only root";
    let found = statvfs("/").map_err(MechanismError::at(step))?;
    if found.flags().contains(FsFlags::ST_RDONLY) {
        return Ok("read-only".to_owned());
    }
    let advice = "it can be written (ProtectSystem=strict is missing)";
    Err(refused(step, advice.to_owned()))
}

/// A network without a route is none, whoever owns it. The host's own would have one, or is not worth hiding.
fn no_network() -> Result<String, MechanismError> {
    let step = "reach no network";
    let ipv4 = std::fs::read_to_string("/proc/self/net/route");
    let ipv4 = ipv4.map_err(MechanismError::at(step))?;
    let interfaces = std::fs::read_to_string("/proc/self/net/dev");
    let interfaces = interfaces.map_err(MechanismError::at(step))?;
    if has_routes(&ipv4) || has_interfaces(&interfaces) {
        let advice = "it has interfaces or routes (PrivateNetwork=yes is missing)";
        return Err(refused(step, advice.to_owned()));
    }
    Ok("no interface, no route".to_owned())
}

/// /proc/net/route has one line of titles and one per route.
fn has_routes(table: &str) -> bool {
    table.lines().skip(1).any(|line| !line.trim().is_empty())
}

/// /proc/net/dev has two lines of titles and one per interface. A new namespace has the loopback interface, and the unused ends
/// of tunnels whose modules are loaded, which have never sent anything.
fn has_interfaces(table: &str) -> bool {
    table.lines().skip(2).any(|line| {
        let Some((name, counters)) = line.split_once(':') else {
            return false;
        };
        let used = counters.split_whitespace().any(|count| count != "0");
        name.trim() != "lo" && used
    })
}

/// The first namespace of each of these kinds has a number that never changes (Linux, include/uapi/linux/nsfs.h).
fn differs(kind: &'static str, setting: &str) -> Result<String, MechanismError> {
    let step = "be in one of its own";
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}"));
    let link = link.map_err(MechanismError::at(step))?;
    let first = match kind {
        "ipc" => "ipc:[4026531839]",
        _ => "uts:[4026531838]",
    };
    if link.as_os_str() == first {
        return Err(refused(
            step,
            format!("it is the host's ({setting} is missing)"),
        ));
    }
    Ok("own".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLES: &str = "Inter-|   Receive\n face |bytes\n";

    #[test]
    fn loopback_and_unused_tunnels_are_no_network() {
        let table = format!("{TITLES}    lo:  12 1 0\n  sit0:  0 0 0\n");
        assert!(!has_interfaces(&table));
        assert!(has_interfaces(&format!("{TITLES}  eth0: 12 1 0\n")));
    }

    #[test]
    fn table_of_titles_has_no_route() {
        assert!(!has_routes("Iface\tDestination\n"));
        assert!(has_routes("Iface\tDestination\neth0\t00000000\n"));
    }

    #[test]
    fn process_in_the_hosts_namespace_is_told_the_setting() {
        let found = differs("uts", "ProtectHostname=yes");
        let own = std::fs::read_link("/proc/self/ns/uts").unwrap();
        let at_home = own.as_os_str() == "uts:[4026531838]";
        assert_eq!(found.is_err(), at_home, "{own:?}");
    }
}
