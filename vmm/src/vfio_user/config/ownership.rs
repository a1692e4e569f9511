//! Which bytes of configuration space are whose, set up once at attach.

use super::{
    BIST, CACHE_LINE_AND_LATENCY, COMMAND, COMMAND_WRITABLE, DeviceConfig, HEADER_BYTES,
    INTERRUPT_LINE, INTERRUPT_PIN, LEGACY_BYTES, MSIX_CONTROL_OFFSET, MSIX_ENABLE, MSIX_MASK_ALL,
    STATUS, Source,
};
use crate::vfio_user::wire::u8_at;

impl DeviceConfig {
    fn own(&mut self, range: std::ops::Range<u16>, source: Source) {
        for slot in self
            .source
            .iter_mut()
            .take(usize::from(range.end))
            .skip(usize::from(range.start))
        {
            *slot = source;
        }
    }

    pub(super) fn header(&mut self, has_intx: bool) {
        self.own(0..HEADER_BYTES, Source::Vmm);
        self.own(COMMAND..STATUS, Source::Both);
        self.own(STATUS..STATUS + 2, Source::Device);
        self.own(CACHE_LINE_AND_LATENCY, Source::Device);
        self.space.set(BIST, &[0]);
        self.space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        self.space.allow(INTERRUPT_LINE, &[0xff]);
        if !has_intx {
            self.space.set(INTERRUPT_PIN, &[0]);
        }
    }

    /// The list's ids and pointers stay what they were when they were checked.
    pub(super) fn list(&mut self, copy: &[u8]) {
        let mut next = if u8_at(copy, usize::from(STATUS)) & 0x10 == 0 {
            0
        } else {
            u8_at(copy, 0x34) & 0xfc
        };
        // The copy was checked: the list ends. The bound is for the reader.
        for _ in 0..usize::from(LEGACY_BYTES) / 4 {
            if next == 0 {
                break;
            }
            let offset = u16::from(next);
            self.own(offset..offset + 2, Source::Vmm);
            next = u8_at(copy, usize::from(offset) + 1) & 0xfc;
        }
    }

    pub(super) fn message_interrupts(&mut self) {
        if let Some(layout) = self.capabilities.msi {
            let len = u16::try_from(layout.len_bytes()).unwrap_or(0);
            self.own(layout.offset..layout.offset + len, Source::Vmm);
        }
        if let Some(layout) = self.capabilities.msix {
            self.own(layout.offset..layout.offset + 12, Source::Vmm);
            let control = layout.offset + MSIX_CONTROL_OFFSET;
            self.space
                .allow(control, &(MSIX_ENABLE | MSIX_MASK_ALL).to_le_bytes());
        }
    }

    /// A hidden extended capability becomes a null capability (id 0) that only leads to the next one.
    pub(super) fn hide(&mut self) {
        for offset in self.capabilities.hidden.clone() {
            let next = self.space.u32_at(offset) & 0xfff0_0000;
            self.space.set(offset, &next.to_le_bytes());
            self.own(offset..offset + 4, Source::Vmm);
        }
    }
}
