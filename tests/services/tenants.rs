//! Two tenants on one host: who they are, and what they cannot have of each other.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};

use crate::installed::{BLUE, GREEN, Host};

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn tenants_have_users_slices_and_devices_of_their_own() -> Result<()> {
    let host = Host::install()?;
    host.systemctl(&["start", &BLUE.socket(), &GREEN.socket()])?;
    host.systemctl(&["start", &BLUE.vm(), &GREEN.vm()])?;
    BLUE.wait_for_guest("VENDOR 0x1b36")?;
    GREEN.wait_for_guest("VENDOR 0x8086")?;
    let mut users = Vec::new();
    for tenant in [BLUE, GREEN] {
        for unit in [tenant.server(), tenant.vm()] {
            host.is(&unit, "active")?;
            let group = host.property(&unit, "ControlGroup")?;
            let slice = format!("/bulkhead.slice/bulkhead-{}.slice/", tenant.name);
            ensure!(group.starts_with(&slice), "{unit} is in {group}");
            users.push(host.user(&unit)?);
        }
    }
    users.sort();
    users.dedup();
    ensure!(users.len() == 4, "one user each: {users:?}");
    ensure!(
        !users.iter().any(|user| user.starts_with("0\t")),
        "{users:?}"
    );
    ensure!(BLUE.node_owner()? != GREEN.node_owner()?, "a node each");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_without_a_file_has_no_user_and_no_server() -> Result<()> {
    let host = Host::install()?;
    fs::remove_file(format!("/etc/bulkhead/devices/{}.conf", GREEN.device))?;
    host.systemctl(&["daemon-reload"])?;
    host.systemctl_fails(&["start", &GREEN.server()])?;
    ensure!(GREEN.node_owner().unwrap_or(0) == 0, "lent to nobody");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn vm_of_another_tenant_gets_no_device() -> Result<()> {
    let host = Host::install()?;
    host.systemctl(&["start", &BLUE.socket()])?;
    GREEN.configure("vfio-user-pci,socket", &BLUE.socket_path(), "")?;
    host.systemctl_fails(&["start", &GREEN.vm()])?;
    let said = host.journal(&GREEN.vm());
    ensure!(said.contains("no permission to connect"), "{said}");
    host.is(&BLUE.server(), "inactive")?;
    host.systemctl(&["stop", &GREEN.vm()])?;
    // Even where somebody has opened the socket to all, the server asks who comes.
    fs::set_permissions(BLUE.socket_path(), fs::Permissions::from_mode(0o666))?;
    let refused = host.records("BULKHEAD_EVENT=client-refused")?;
    let _ends_when_it_is_refused = host.systemctl(&["start", &GREEN.vm()]);
    host.becomes(&GREEN.vm(), "failed")?;
    ensure!(
        host.records("BULKHEAD_EVENT=client-refused")? > refused,
        "{}",
        host.journal(&BLUE.server())
    );
    ensure!(
        !GREEN.console().contains("VENDOR 0x1b36"),
        "{}",
        GREEN.console()
    );
    Ok(())
}
