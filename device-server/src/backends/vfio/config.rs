//! Which config space writes of the client reach VFIO, and with which bits.
//!
//! The VMM may be compromised, so the server filters again what the VMM should have. VFIO itself virtualises BARs, the
//! ROM BAR, the interrupt line, INTx disable, MSI address and data, maximum payload size, power states and FLR, and
//! drops writes to most capabilities (Linux `drivers/vfio/pci/vfio_pci_config.c`): those pass, they are safe there,
//! and clients size BARs that way. On top of that the client may not change:
//!
//! | Register | Why |
//! |---|---|
//! | COMMAND: parity and SERR enable | they raise errors on the host's bus, up to an NMI; the host set them |
//! | BIST | a self test takes the device off the bus while the host waits |
//! | MSI and MSI-X capability, all of it but the header | SET_IRQS owns enable, vector count, address, data and masks |
//! | PCI Express Device Control: error reporting enables | errors go to the host's root port and its AER driver |
//! | Advanced Error Reporting | masks and severity decide whether the host resets the link |
//! | VPD: write | it changes the device's memory for good: the next client would get it |
//!
//! A write that spans such bytes and others is taken apart, so that only the others arrive (XSA-128).
//! Vendor-specific registers pass: only the device knows what they do. That is why the IOMMU, not this filter,
//! bounds what a client can reach.
//! Reads are not filtered. Pure: decides, and does not write.

use super::capabilities::ConfigCopy;
use super::spec::{
    AER_BYTES, BIST, CAP_ID_EXPRESS, CAP_ID_MSI, CAP_ID_MSIX, CAP_ID_VPD, COMMAND, COMMAND_PARITY,
    COMMAND_SERR, EXPRESS_DEVICE_CONTROL, EXPRESS_DEVICE_CONTROL_REPORTING, EXTENDED_CAP_ID_AER,
    MSI_CONTROL, MSI_CONTROL_64BIT, MSI_CONTROL_MASKABLE, MSIX_BYTES, MSIX_CONTROL,
    VPD_ADDRESS_HIGH, VPD_ADDRESS_HIGH_WRITE,
};

/// One write that VFIO gets: 1, 2 or 4 bytes, naturally aligned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConfigWrite {
    /// Where in config space.
    pub(super) offset: u64,
    /// What.
    pub(super) data: Vec<u8>,
}

/// The bits of config space that the client may not change, and their values.
#[derive(Debug)]
pub(super) struct ConfigFilter {
    /// For each byte the bits that the host owns.
    host_owned: Vec<u8>,
    /// The values they keep.
    values: ConfigCopy,
}

impl ConfigFilter {
    /// The filter for a device whose config space was `config` when it was opened.
    pub(super) fn new(config: ConfigCopy) -> ConfigFilter {
        let mut filter = ConfigFilter {
            host_owned: vec![0; config.len()],
            values: config,
        };
        let [command_low, command_high] = (COMMAND_PARITY | COMMAND_SERR).to_le_bytes();
        filter.own(COMMAND, command_low);
        filter.own(COMMAND.saturating_add(1), command_high);
        filter.own(BIST, u8::MAX);
        if let Some(msi) = filter.values.capability(CAP_ID_MSI) {
            let end = msi_bytes(filter.values.word(msi.saturating_add(MSI_CONTROL)));
            filter.own_bytes(msi, MSI_CONTROL, end);
        }
        if let Some(msix) = filter.values.capability(CAP_ID_MSIX) {
            filter.own_bytes(msix, MSIX_CONTROL, MSIX_BYTES);
        }
        if let Some(express) = filter.values.capability(CAP_ID_EXPRESS) {
            filter.own(
                express.saturating_add(EXPRESS_DEVICE_CONTROL),
                EXPRESS_DEVICE_CONTROL_REPORTING,
            );
        }
        if let Some(vpd) = filter.values.capability(CAP_ID_VPD) {
            filter.own(vpd.saturating_add(VPD_ADDRESS_HIGH), VPD_ADDRESS_HIGH_WRITE);
            filter.force(vpd.saturating_add(VPD_ADDRESS_HIGH), VPD_ADDRESS_HIGH_WRITE);
        }
        if let Some(aer) = filter.values.extended_capability(EXTENDED_CAP_ID_AER) {
            filter.own_bytes(aer, 0, AER_BYTES);
        }
        filter
    }

    /// What a byte was when the device was opened.
    pub(super) fn opened_with(&self, offset: usize) -> u8 {
        self.values.byte(offset)
    }

    /// What VFIO gets of a client's write, in order. Empty when nothing of it may pass.
    pub(super) fn pass(&self, offset: u64, data: &[u8]) -> Vec<ConfigWrite> {
        let mut writes = Vec::new();
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (now, later) = rest
                .split_at_checked(access_width(at, rest.len()))
                .unwrap_or((rest, &[]));
            self.pass_aligned(at, now, &mut writes);
            at = at.saturating_add(u64::try_from(now.len()).unwrap_or(u64::MAX));
            rest = later;
        }
        writes
    }

    fn pass_aligned(&self, offset: u64, data: &[u8], writes: &mut Vec<ConfigWrite>) {
        let places = (0u64..).map(|index| offset.saturating_add(index));
        let bytes: Vec<(u64, Option<u8>)> = places
            .zip(data)
            .map(|(at, byte)| (at, self.filtered(at, *byte)))
            .collect();
        if let Some(data) = bytes
            .iter()
            .map(|(_, filtered)| *filtered)
            .collect::<Option<Vec<u8>>>()
        {
            writes.push(ConfigWrite { offset, data });
            return;
        }
        tracing::debug!(
            offset,
            len = data.len(),
            "config space write reaches bytes that the host owns: left out"
        );
        for (at, filtered) in bytes {
            writes.extend(filtered.map(|byte| ConfigWrite {
                offset: at,
                data: vec![byte],
            }));
        }
    }

    /// The byte as it may be written at `offset`; `None` if the host owns all of it.
    fn filtered(&self, offset: u64, byte: u8) -> Option<u8> {
        let index = usize::try_from(offset).ok()?;
        match self.host_owned.get(index).copied()? {
            u8::MAX => None,
            mask => Some(byte & !mask | self.values.byte(index) & mask),
        }
    }

    fn own(&mut self, offset: usize, bits: u8) {
        if let Some(mask) = self.host_owned.get_mut(offset) {
            *mask |= bits;
        }
    }

    /// Bytes `from..end` of the capability at `start`.
    fn own_bytes(&mut self, start: usize, from: usize, end: usize) {
        for offset in from..end {
            self.own(start.saturating_add(offset), u8::MAX);
        }
    }

    /// These bits stay 0, whatever they were.
    fn force(&mut self, offset: usize, bits: u8) {
        self.values.clear_bits(offset, bits);
    }
}

/// PCI Local Bus 3.0 §6.8.1: the length of the MSI capability follows from its control register.
fn msi_bytes(control: u16) -> usize {
    let wide: usize = if control & MSI_CONTROL_64BIT != 0 {
        14
    } else {
        10
    };
    if control & MSI_CONTROL_MASKABLE != 0 {
        wide.saturating_add(10)
    } else {
        wide
    }
}

/// The naturally aligned access that VFIO would make of this, too.
fn access_width(offset: u64, len: usize) -> usize {
    [4usize, 2]
        .into_iter()
        .find(|width| len >= *width && offset & (alignment(*width)) == 0)
        .unwrap_or(1)
}

fn alignment(width: usize) -> u64 {
    u64::try_from(width).unwrap_or(1).saturating_sub(1)
}

#[cfg(test)]
mod tests;
