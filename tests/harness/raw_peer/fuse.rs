//! A file whose size, pages and answers are another process's to give, and which gives none: FUSE, one file, opened and taken out of the
//! host's tree again.
//!
//! Only opening and closing are answered. What else is asked is answered with an error after `HOLD`, so that who asks is late, and no
//! process of a failed test is stuck for ever. With `unclosable_file` closing is not answered either, until its `Held` is dropped. A
//! test's process that is killed before that cannot end: `echo 1 > /sys/fs/fuse/connections/N/abort`.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use fuser::{
    Config, Errno, FileHandle, Filesystem, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyStatfs, Request, Session, SessionACL,
};
use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use crate::deadline::{PROCESS, eventually};
use crate::scratch::Scratch;

/// Longer than any wait of a peer of ours.
const HOLD: Duration = Duration::from_secs(30);
/// Between the end of a descriptor and that of closing it, once it is answered.
const GRACE: Duration = Duration::from_millis(100);
const NOBODY: u32 = 65534;

/// What is not answered before it is open.
#[derive(Debug, Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

/// A file that nobody can close, as long as this lives.
#[derive(Debug)]
pub struct Held {
    gate: Arc<Gate>,
    /// Only `drop` leaves it empty.
    file: Option<OwnedFd>,
}

impl Held {
    /// Answers from now on.
    pub fn release(&self) {
        *self
            .gate
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.gate.opened.notify_all();
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("it lives").as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing asks a thread of this process, which must not end before everything of it that has the file has closed it.
        self.release();
        let Some(file) = self.file.take() else { return };
        let closed = eventually("every other copy to be closed", PROCESS, || {
            (copies(&file).ok()? <= 1).then_some(())
        });
        drop(file);
        // What was taken out of the table just now is being closed.
        std::thread::sleep(GRACE);
        if let Err(error) = closed {
            eprintln!("{error:#}: this process may not end");
        }
    }
}

/// How many descriptors of this process are the file.
fn copies(file: &OwnedFd) -> io::Result<usize> {
    let target = |number: &str| fs::read_link(format!("/proc/self/fd/{number}"));
    let name = target(&file.as_raw_fd().to_string())?;
    let mut found = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let same = target(&entry?.file_name().to_string_lossy()).is_ok_and(|other| other == name);
        found += usize::from(same);
    }
    Ok(found)
}

/// Answers no FUSE_FLUSH before its gate is open.
#[derive(Debug)]
struct Unclosable(Arc<Gate>);

impl Filesystem for Unclosable {
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.opened.wait_while(open, |open| !*open);
        drop(waited);
        reply.ok();
    }
}

#[derive(Debug)]
struct Silent;

impl Filesystem for Silent {
    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        std::thread::sleep(HOLD);
        reply.error(Errno::EIO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        std::thread::sleep(HOLD);
        reply.error(Errno::EIO);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        std::thread::sleep(HOLD);
        reply.error(Errno::EIO);
    }
}

/// Such a file, open for reading and writing. An error says why this machine cannot have one.
pub fn silent_file() -> io::Result<OwnedFd> {
    open_as(Silent, 0, ",allow_other")
}

/// One of another user, whose questions alone the kernel passes on: it refuses everybody else's.
pub fn file_of_another_user() -> io::Result<OwnedFd> {
    open_as(Silent, NOBODY, "")
}

/// One that who has it cannot close.
pub fn unclosable_file() -> io::Result<Held> {
    let gate = Arc::new(Gate::default());
    let file = open_as(Unclosable(Arc::clone(&gate)), 0, ",allow_other")?;
    let file = Some(file);
    Ok(Held { gate, file })
}

fn open_as(served: impl Filesystem + 'static, user: u32, option: &str) -> io::Result<OwnedFd> {
    let scratch = Scratch::new().map_err(io::Error::other)?;
    let path = scratch.file("fuse");
    File::create(&path)?;
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=100666,user_id={user},group_id={user}{option}",
        device.as_raw_fd()
    );
    nix::mount::mount(
        Some("fuse"),
        path.as_str(),
        Some("fuse"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )?;
    let session = Session::from_fd(served, device.into(), SessionACL::All, Config::default());
    let opened = session.and_then(Session::spawn).and_then(|answering| {
        // It answers as long as this process lives.
        std::mem::forget(answering);
        // A thread has a user of its own, and this one ends.
        let opening = || {
            set_thread_res_gid(
                Gid::from_raw(user),
                Gid::from_raw(user),
                Gid::from_raw(user),
            )?;
            set_thread_res_uid(
                Uid::from_raw(user),
                Uid::from_raw(user),
                Uid::from_raw(user),
            )?;
            File::options().read(true).write(true).open(&path)
        };
        let opened = std::thread::scope(|scope| scope.spawn(opening).join());
        opened.unwrap_or_else(|_| Err(io::Error::other("the thread that opens it has died")))
    });
    nix::mount::umount2(path.as_str(), MntFlags::MNT_DETACH)?;
    opened.map(OwnedFd::from)
}
