//! What the targets of the requests share: bytes in, a request or a refusal out.

use crate::descriptors::descriptors;
use protocol::{
    Command, CommandCode, DecodeContext, Frame, Header, HeaderFlags, MessageId, Refusal,
};

/// Decodes one request of a family. The first byte picks the command and the number of descriptors.
pub fn request<'a>(family: &[u16], data: &'a [u8]) -> Option<Result<Command<'a>, Refusal>> {
    let (first, body) = data.split_first()?;
    let command = family[usize::from(first & 0x0f) % family.len()];
    let frame = Frame {
        header: Header {
            id: MessageId(1),
            command: CommandCode(command),
            size: 16 + u32::try_from(body.len()).ok()?,
            flags: HeaderFlags::COMMAND,
            error: 0,
        },
        body,
        fds: descriptors(first >> 6),
        fds_on_body: first & 0x10 != 0,
    };
    let context = DecodeContext {
        write_multiple: first & 0x20 == 0,
        ..DecodeContext::UNSTATED
    };
    let decoded = Command::decode(frame, &context);
    if let Err(refusal) = &decoded {
        assert_ne!(refusal.errno.raw_os_error(), 0);
        assert!(!refusal.to_string().is_empty());
    }
    Some(decoded)
}
