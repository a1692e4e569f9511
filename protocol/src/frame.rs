//! One whole message as it came from the socket: framed and bounded, not yet understood.

use crate::header::Header;
use crate::received_fd::ReceivedFd;

/// A message of the peer.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Header inside the limits.
    pub header: Header,
    /// Everything behind the header; its length is what the header says.
    pub body: &'a [u8],
    /// File descriptors that came with the header. Dropping the frame closes them.
    pub fds: Vec<ReceivedFd>,
    /// File descriptors came with bytes of the body. They are closed already; a command that needs some is refused.
    pub fds_on_body: bool,
}
