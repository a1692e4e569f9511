//! The thread that opens a device whose client is served meanwhile.
//!
//! It is there before the device is known, and opens it while the rest of the process gets ready: opening waits for the hardware. Its
//! system calls are filtered with those of all threads, in the middle of that.
//! Limit: one device.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::backends::vfio::{OpenError, Unopened};

/// The thread, before it has a device.
#[derive(Debug)]
pub(super) struct Opener {
    work: Sender<(Unopened, tracing::Span)>,
    opened: Opening,
}

/// How opening goes.
#[derive(Debug)]
pub(super) struct Opening(Receiver<Result<(), OpenError>>);

impl Opener {
    /// Starts it. When this returns, it makes no system call to begin any more.
    pub(super) fn start() -> io::Result<Opener> {
        let (work, given) = channel::<(Unopened, tracing::Span)>();
        let (done, opened) = channel();
        let (begins, begun) = channel();
        let body = move || {
            let _begun = begins.send(());
            // Without a device there is nothing to open.
            let Ok((unopened, device)) = given.recv() else {
                return;
            };
            let _device = device.entered();
            let _told = done.send(unopened.open());
        };
        std::thread::Builder::new()
            .name("opener".to_owned())
            .spawn(body)?;
        begun.recv().map_err(io::Error::other)?;
        Ok(Opener {
            work,
            opened: Opening(opened),
        })
    }

    /// Has it open this device.
    pub(super) fn open(self, unopened: Unopened) -> Opening {
        let _taken = self.work.send((unopened, tracing::Span::current()));
        self.opened
    }
}

impl Opening {
    /// Waits until the device is open, as long as the kernel takes: whoever waits for this process has a deadline.
    pub(super) fn wait(self) -> io::Result<Result<(), OpenError>> {
        self.0.recv().map_err(io::Error::other)
    }
}
