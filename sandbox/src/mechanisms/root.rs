//! An empty, read-only root directory. Descriptors that are open already keep working.

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chroot, pivot_root};

use super::MechanismError;

/// A folder that every machine has, to mount the new root on. Only this process sees that.
const MOUNT_POINT: &str = "/proc";
const NOTHING: Option<&str> = None;

/// Changes to it. Needs a mount namespace of its own.
pub fn empty() -> Result<String, MechanismError> {
    // Nothing that is mounted here may appear in the host's namespace.
    mount(
        NOTHING,
        "/",
        NOTHING,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        NOTHING,
    )
    .map_err(MechanismError::at("make the mounts private"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("tmpfs"),
        MOUNT_POINT,
        Some("tmpfs"),
        flags,
        Some("size=4096,nr_inodes=1,mode=555"),
    )
    .map_err(MechanismError::at("mount an empty file system"))?;
    chdir(MOUNT_POINT).map_err(MechanismError::at("go to the empty file system"))?;
    match pivot_root(".", ".") {
        // The old root ends up on top of the new one, and is taken away.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)
            .map_err(MechanismError::at("let go of the old root"))?,
        // A host that runs from its initial RAM disk has a root that cannot be taken away: it is covered.
        Err(Errno::EINVAL) => {
            mount(Some("."), "/", NOTHING, MsFlags::MS_MOVE, NOTHING)
                .map_err(MechanismError::at("cover the root"))?;
            chroot(".").map_err(MechanismError::at("make the cover the root"))?;
        }
        Err(errno) => {
            return Err(MechanismError::new(
                "make the empty file system the root",
                errno,
            ));
        }
    }
    chdir("/").map_err(MechanismError::at("go to the new root"))?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_BIND | flags;
    mount(NOTHING, "/", NOTHING, read_only, NOTHING)
        .map_err(MechanismError::at("make the new root read-only"))?;
    Ok("empty, read-only".to_owned())
}
