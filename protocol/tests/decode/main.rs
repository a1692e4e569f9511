//! What `Command::decode` refuses, row by row of conformance.md (A2, A4 to A9, A12), without a socket.

#![cfg(test)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers of this file"
)]

#[path = "../peers/mod.rs"]
mod peers;

mod access;
mod dma;
mod feature;
mod irqs;
mod version;

use peers::device::memfd;
use protocol::{Command, CommandCode, DecodeContext, Errno, Frame, Header, HeaderFlags, MessageId};

const MAX: u32 = 1 << 20;

const CONTEXT: DecodeContext = DecodeContext {
    max_msg_fds: 16,
    max_data_xfer_size: MAX,
    peer_max_data_xfer_size: MAX,
    write_multiple: true,
};

fn decode_with(
    command: u16,
    body: &[u8],
    fds: usize,
    context: &DecodeContext,
) -> Result<String, Errno> {
    let frame = Frame {
        header: Header {
            id: MessageId(1),
            command: CommandCode(command),
            size: 16 + body.len() as u32,
            flags: HeaderFlags::COMMAND,
            error: 0,
        },
        body,
        fds: (0..fds).map(|_| memfd(1).into()).collect(),
        fds_on_body: false,
    };
    let decoded = Command::decode(frame, context);
    if let Err(refusal) = &decoded {
        assert_eq!(refusal.close, command == 1);
        assert_eq!(refusal.command, CommandCode(command));
        assert!(refusal.to_string().contains(refusal.field));
    }
    decoded
        .map(|command| format!("{command:?}"))
        .map_err(|refusal| refusal.errno)
}

/// `Ok` when it is taken, otherwise the errno.
fn decode(command: u16, body: &[u8], fds: usize) -> Result<(), Errno> {
    decode_with(command, body, fds, &CONTEXT).map(|_text| ())
}

const OK: Result<(), Errno> = Ok(());
const EINVAL: Result<(), Errno> = Err(Errno::INVAL);
const ENOSPC: Result<(), Errno> = Err(Errno::NOSPC);
