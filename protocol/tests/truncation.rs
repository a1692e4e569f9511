//! Every message, cut short at every byte: each cut is refused, none is taken for a shorter message.

#![cfg(test)]

mod peers;

use peers::device::memfd;
use peers::{hex, version_body};
use protocol::messages::dma_access::{self, DmaRequest};
use protocol::messages::io_fds::IoFds;
use protocol::messages::{
    DeviceInfo, DmaUnmap, MigDataRead, RegionAccess, Version, feature, write_multi,
};
use protocol::{
    Command, CommandCode, DecodeContext, Errno, Frame, Header, HeaderFlags, Iova, IovaRange,
    IrqIndex, IrqInfo, MessageId, RegionIndex, RegionInfo,
};

/// One request of each shape: command, body, descriptors. None has surplus bytes.
fn requests() -> Vec<(u16, Vec<u8>, usize)> {
    let p = "0010000000000000";
    vec![
        (
            1,
            version_body(0, 1, r#"{"capabilities":{"max_msg_fds":1}}"#),
            0,
        ),
        (2, hex(&format!("20000000 03000000 {p} {p} {p}")), 1),
        (3, hex(&format!("18000000 00000000 {p} {p}")), 0),
        (4, hex("10000000 00000000 0000000000000000"), 0),
        (
            5,
            hex(&format!("20000000 00000000 00000000 00000000 {p} {p}")),
            0,
        ),
        (6, hex("10000000 00000000 00000000 00000000"), 0),
        (7, hex("10000000 00000000 00000000 00000000"), 0),
        (8, hex("14000000 24000000 02000000 00000000 02000000"), 2),
        (8, hex("14000000 21000000 02000000 00000000 02000000"), 0),
        (
            8,
            hex("16000000 22000000 02000000 00000000 02000000 0101"),
            0,
        ),
        (9, hex("1000000000000000 00000000 04000000"), 0),
        (10, hex("1000000000000000 00000000 04000000 01020304"), 0),
        (
            15,
            hex("0100000000000000 1000000000000000 00000000 04000000 0102030400000000"),
            0,
        ),
        (16, hex("10000000 02000200 01000000 00000000"), 0),
        (
            16,
            hex(&format!("28000000 06000200 {p} 01000000 00000000 {p} {p}")),
            0,
        ),
        (16, hex(&format!("28000000 08000100 {p} {p} {p}")), 0),
        (17, hex("10000000 08000000"), 0),
        (18, hex("0c000000 04000000 01020304"), 0),
    ]
}

fn decode(command: u16, body: &[u8], fds: usize) -> Result<(), Errno> {
    let frame = Frame {
        header: Header {
            id: MessageId(0),
            command: CommandCode(command),
            size: 16 + u32::try_from(body.len()).unwrap(),
            flags: HeaderFlags::COMMAND,
            error: 0,
        },
        body,
        fds: (0..fds).map(|_| memfd(1).into()).collect(),
        fds_on_body: false,
    };
    let context = DecodeContext {
        write_multiple: true,
        ..DecodeContext::UNSTATED
    };
    match Command::decode(frame, &context) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(refusal.errno),
    }
}

#[test]
fn h29_request_cut_anywhere_is_einval() {
    for (command, body, fds) in requests() {
        assert_eq!(decode(command, &body, fds), Ok(()), "{command} whole");
        for cut in 0..body.len() {
            // VERSION without its text is a message of its own.
            let expected = if (command, cut) == (1, 4) {
                Ok(())
            } else {
                Err(Errno::INVAL)
            };
            assert_eq!(
                decode(command, &body[..cut], fds),
                expected,
                "{command} at {cut}"
            );
        }
    }
}

/// Checks that a reader of answers takes the whole and none of the cuts.
fn cuts(name: &str, whole: &[u8], read: impl Fn(&[u8]) -> bool) {
    assert!(read(whole), "{name} whole");
    for cut in 0..whole.len() {
        assert!(!read(&whole[..cut]), "{name} at {cut}");
    }
}

#[test]
fn answer_cut_anywhere_is_refused() {
    let p = "0010000000000000";
    let version = version_body(0, 1, r#"{"capabilities":{}}"#);
    cuts("VERSION", &version[..4], |body| {
        Version::decode_reply(body).is_ok()
    });
    cuts("VERSION text", &version, |body| {
        body.len() != 4 && Version::decode_reply(body).is_ok()
    });
    let info = hex("10000000 03000000 09000000 05000000");
    cuts("GET_INFO", &info, |body| {
        DeviceInfo::decode_reply(body).is_ok()
    });
    let irq = hex("10000000 01000000 02000000 05000000");
    cuts("IRQ_INFO", &irq, |body| {
        IrqInfo::decode_reply(body, IrqIndex::MSIX).is_ok()
    });
    let range = IovaRange::new(Iova(0x1000), 0x1000).unwrap();
    let unmap = hex(&format!("18000000 00000000 {p} {p}"));
    cuts("DMA_UNMAP", &unmap, |body| {
        DmaUnmap::Range(range).check_reply(body).is_ok()
    });
    let region = hex(&format!(
        "40000000 0f000000 00000000 20000000 0040000000000000 0000000000000000 \
         0100 0100 00000000 01000000 00000000 {p} {p}"
    ));
    cuts("REGION_INFO", &region, |body| {
        RegionInfo::decode(body, RegionIndex::BAR0, vec![]).is_ok()
    });
    let io_fds = hex(&format!(
        "38000000 00000000 00000000 01000000 {p} 0400000000000000 00000000 00000000 01000000 00000000 {p}"
    ));
    cuts("IO_FDS", &io_fds, |body| {
        IoFds::decode(body, RegionIndex::BAR0, 0x2000, vec![memfd(1).into()]).is_ok()
    });
    let access = RegionAccess {
        region: RegionIndex::BAR0,
        offset: 0x1000,
        count: 4,
    };
    let read = hex(&format!("{p} 00000000 04000000 01020304"));
    cuts("REGION_READ", &read, |body| {
        access.decode_read_reply(body).is_ok()
    });
    cuts("REGION_WRITE", &read[..16], |body| {
        access.check_write_reply(body).is_ok()
    });
    cuts("WRITE_MULTI", &hex("0100000000000000"), |body| {
        write_multi::decode_reply(body, 1).is_ok()
    });
    cuts("FEATURE", &hex("08000000 01000100"), |body| {
        feature::decode_reply(body).is_ok()
    });
    cuts(
        "MIG_DATA_READ",
        &hex("0c000000 04000000 01020304"),
        |body| MigDataRead { size: 4 }.decode_reply(body).is_ok(),
    );
}

#[test]
fn t12_dma_message_cut_anywhere_is_refused() {
    let p = "0010000000000000";
    let read = hex(&format!("{p} 0400000000000000"));
    let write = hex(&format!("{p} 0400000000000000 01020304"));
    cuts("DMA_READ", &read, |body| {
        DmaRequest::decode(CommandCode::DMA_READ, body, 4096).is_ok()
    });
    cuts("DMA_WRITE", &write, |body| {
        DmaRequest::decode(CommandCode::DMA_WRITE, body, 4096).is_ok()
    });
    cuts("answer to DMA_READ", &write, |body| {
        dma_access::decode_read_reply(body, Iova(0x1000), 4).is_ok()
    });
    cuts("answer to DMA_WRITE", &read, |body| {
        dma_access::decode_write_reply(body, Iova(0x1000), 4).is_ok()
    });
}
