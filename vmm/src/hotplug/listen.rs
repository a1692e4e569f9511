//! What is listened to on behalf of a device: its connection, and what the host's kernel says of it.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use super::devices::Devices;
use super::table::DeviceKey;
use super::worker::Job;
use crate::event_loop::{EventLoop, Handler, Interest, Source, Token};
use crate::one_line::one_line;
use crate::threads::{Kind, Threads};
use crate::vfio_user::VfioUserFunction;
use crate::vfio_user::host_notices::HostNotice;

/// Starts a thread for the connections of devices. It looks whether accesses are late, so it must never wait for one; the
/// machine's own event loop does, in a guest reset.
pub fn watch_connections(threads: &Threads) -> io::Result<Arc<EventLoop>> {
    let events = Arc::new(EventLoop::new()?);
    let watched = Arc::clone(&events);
    let body = move || {
        if let Err(error) = watched.run() {
            // Without it an access could wait for ever.
            tracing::error!(%error, "the connections of devices cannot be watched any more");
            std::process::abort();
        }
    };
    threads.start(Kind::Connections, "connections", body)?;
    Ok(events)
}

impl Devices {
    /// Serves what the device's server asks, and notices when it is gone or the host has something to say.
    pub(super) fn watch(
        &self,
        device: &DeviceKey,
        function: &Arc<VfioUserFunction>,
    ) -> io::Result<()> {
        let connection = Arc::clone(function) as Source;
        self.listen(device, function, What::Connection, connection)?;
        function.is_watched();
        for (notice, event) in function.host_notices() {
            let event = Arc::clone(event) as Source;
            self.listen(device, function, What::Host(*notice), event)?;
        }
        Ok(())
    }

    fn listen(
        &self,
        device: &DeviceKey,
        function: &Arc<VfioUserFunction>,
        what: What,
        fd: Source,
    ) -> io::Result<()> {
        let listener = Arc::new(Listener {
            device: device.clone(),
            function: Arc::clone(function),
            what,
            jobs: self.jobs.clone(),
            token: Mutex::new(None),
        });
        // Held until the token is known: the handler may be called before `add` returns.
        let mut known = listener
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let handler = Arc::clone(&listener) as Arc<dyn Handler>;
        let token = self.machine.events.add(fd, Interest::Readable, handler)?;
        *known = Some(token);
        drop(known);
        let kept = self.table.with(device, |entry| {
            // The guest may have let it out already; then nobody would remove the token.
            let is_there = entry.function.is_some();
            entry.watches.extend(is_there.then_some(token));
            is_there
        });
        if kept != Some(true) {
            self.machine.events.remove(token);
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Connection,
    Host(HostNotice),
}

/// Hears one thing of a device, and ends with it: a closed connection stays readable for ever, and nobody reads the eventfds.
struct Listener {
    device: DeviceKey,
    function: Arc<VfioUserFunction>,
    what: What,
    jobs: Sender<Job>,
    token: Mutex<Option<Token>>,
}

impl Listener {
    /// What is to be told, if the device is not as before.
    fn hear(&self) -> Option<Job> {
        let device = self.device.clone();
        let lost = |cause: String| Some(Job::Lost { device, cause });
        match self.what {
            What::Connection if self.function.service() => None,
            What::Connection => {
                let cause = self.function.lost();
                lost(cause.map_or_else(|| "unknown".to_owned(), |cause| one_line(&cause)))
            }
            What::Host(HostNotice::Request) => Some(Job::HostAsks(self.device.clone())),
            What::Host(HostNotice::Error) => {
                self.function.fail();
                lost(
                    "the device had an error that cannot be corrected (VFIO's ERR interrupt)"
                        .to_owned(),
                )
            }
        }
    }
}

impl Handler for Listener {
    fn ready(&self, events: &EventLoop) {
        let Some(job) = self.hear() else { return };
        let token = self
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(token) = token {
            events.remove(token);
            let _taken = self.jobs.send(job);
        }
    }
}
