//! Images that are copied by scripts.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const CONTENT: &str = "a kernel";

/// A folder of its own, removed at the end, with an image and a program that copies.
struct Scratch(PathBuf);

impl Scratch {
    /// `script`: what stands in place of this program; its arguments are the stage, a path and a limit.
    fn new(name: &str, script: &str) -> (Scratch, Images) {
        let name = format!("bulkhead-images-{}-{name}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        fs::create_dir_all(&scratch.0).unwrap();
        fs::write(scratch.0.join("image"), CONTENT).unwrap();
        let program = scratch.0.join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let images = Images::new(program, 64 << 20);
        (scratch, images)
    }

    fn image(&self) -> String {
        self.0.join("image").display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const COPIES: &str = "cat \"$2\" >&3";

/// What becomes of the image that is being read.
fn answer(images: &mut Images) -> Answer {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = images.on_time(Instant::now()) {
            return answer;
        }
        assert!(Instant::now() < end, "no answer in time");
        wait(images);
    }
}

/// Until the child has ended.
fn wait(images: &Images) {
    let mut fds = [PollFd::from_borrowed_fd(
        images.pidfd().unwrap(),
        PollFlags::IN,
    )];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(rustix::event::poll(&mut fds, Some(&patience)), Ok(1));
}

fn opened(images: &mut Images, number: u32, path: &str) -> File {
    images.open(number, path).unwrap();
    let (reply, copy) = answer(images);
    assert_eq!(reply, Reply::Opened { number });
    File::from(copy.unwrap())
}

fn refused(reply: Reply, expected: u32) -> String {
    let Reply::Refused { number, reason } = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(number, expected);
    reason
}

#[test]
fn copy_has_what_the_file_has_and_cannot_be_changed() {
    let (scratch, mut images) = Scratch::new("copy", COPIES);
    let mut copy = opened(&mut images, 7, &scratch.image());
    let mut content = String::new();
    copy.seek(SeekFrom::Start(0)).unwrap();
    copy.read_to_string(&mut content).unwrap();
    assert_eq!(content, CONTENT);
    let not_permitted = |result: io::Result<()>| {
        let errno = result.unwrap_err().raw_os_error();
        assert_eq!(errno, Some(libc::EPERM));
    };
    copy.seek(SeekFrom::Start(0)).unwrap();
    not_permitted(copy.write_all(b"x"));
    not_permitted(copy.set_len(1 << 20));
    let seal = rustix::fs::fcntl_add_seals(&copy, SealFlags::SHRINK);
    not_permitted(seal.map_err(io::Error::from));
}

#[test]
fn closed_image_has_no_memory_whoever_keeps_it() {
    let (scratch, mut images) = Scratch::new("close", COPIES);
    let copy = opened(&mut images, 7, &scratch.image());
    images.close(8);
    assert_eq!(copy.metadata().unwrap().len(), CONTENT.len() as u64);
    images.close(7);
    assert_eq!(copy.metadata().unwrap().len(), 0);
    images.close(7);
}

#[test]
fn image_that_is_closed_while_it_is_read_is_not_lent() {
    let (scratch, mut images) = Scratch::new("cancelled", "exec sleep 60");
    images.open(7, &scratch.image()).unwrap();
    images.close(8);
    assert!(images.on_time(Instant::now()).is_none());
    images.close(7);
    let (reply, copy) = images.on_time(Instant::now()).unwrap();
    refused(reply, 7);
    assert!(copy.is_none());
    assert_eq!(images.lent.len(), 0);
}

#[test]
fn vm_has_no_more_images_than_it_may_have() {
    let (scratch, mut images) = Scratch::new("many", COPIES);
    let path = scratch.image();
    let numbers = 0..u32::try_from(deadline::MAX_IMAGES).unwrap();
    let copies: Vec<File> = numbers
        .map(|number| opened(&mut images, number, &path))
        .collect();
    let reason = images.open(99, &path).unwrap_err();
    assert!(reason.contains("6 images open, as many as"), "{reason}");
    images.close(3);
    let _again = opened(&mut images, 99, &path);
    drop(copies);
}

#[test]
fn request_that_has_an_image_gets_no_other() {
    let (scratch, mut images) = Scratch::new("number", COPIES);
    let _copy = opened(&mut images, 7, &scratch.image());
    let reason = images.open(7, &scratch.image()).unwrap_err();
    assert!(
        reason.contains("request 7 has an image already"),
        "{reason}"
    );
}

#[test]
fn child_that_fails_is_a_refusal_in_its_words() {
    let script = "echo 'bulkhead-vmm: image /x: is no regular file' >&2; exit 1";
    let (scratch, mut images) = Scratch::new("fails", script);
    images.open(7, &scratch.image()).unwrap();
    let (reply, copy) = answer(&mut images);
    let reason = refused(reply, 7);
    assert!(reason.ends_with("image /x: is no regular file"), "{reason}");
    assert!(copy.is_none());
    assert_eq!(images.lent.len(), 0);
}

#[test]
fn file_that_is_not_read_in_time_is_refused_once_and_keeps_others_out_until_its_reader_is_gone() {
    let (scratch, mut images) = Scratch::new("late", "exec sleep 60");
    let path = scratch.image();
    images.open(7, &path).unwrap();
    let reason = images.open(8, &path).unwrap_err();
    assert!(reason.contains("is being read"), "{reason}");
    assert!(images.on_time(Instant::now()).is_none());
    let deadline = images.next_deadline().unwrap();
    let (reply, _) = images.on_time(deadline).unwrap();
    let reason = refused(reply, 7);
    assert!(reason.contains("did not give it within 30 s"), "{reason}");
    // It was killed; until it is reaped it may keep the file busy.
    if images.pidfd().is_some() {
        wait(&images);
    }
    assert!(images.on_time(deadline).is_none());
    images.open(8, &path).unwrap();
}
