//! What a device must be able to do to be served over vfio-user.
//!
//! A backend knows regions, interrupts, DMA and reset of one device. It knows nothing of sockets, messages,
//! sessions or processes: `server/` does, and calls the backend only with requests it has checked.
//! Both kinds of device implement this trait: `backends/vfio/` (a real PCI device) and `backends/test/`.
//!
//! One session thread owns the backend and calls it from that thread only. A call may block (a reset takes as
//! long as the hardware takes); it holds up this device's client and nobody else.

use std::fmt::Debug;
use std::os::fd::{BorrowedFd, OwnedFd};

use protocol::{
    DmaMap, Errno, IoFds, Iova, IovaRange, IrqInfoFlags, RegionFlags, RegionIndex, SetIrqs,
    SparseArea,
};

/// One region of the device, as DEVICE_GET_REGION_INFO reports it. Size 0 means "not there".
#[derive(Debug)]
pub struct Region {
    /// Size in bytes.
    pub size: u64,
    /// READ and WRITE are enforced by `server/`. MMAP and CAPS are ignored here: `server/` sets them from
    /// `areas` and `mmap_fd`.
    pub flags: RegionFlags,
    /// The parts a client may mmap: page aligned, ascending, inside the region, never over the MSI-X table or
    /// PBA. A region that may be mapped whole has one area that covers it.
    pub areas: Vec<SparseArea>,
    /// The file descriptor the client maps the areas of. Kept open here; the client gets a duplicate.
    pub mmap_fd: Option<OwnedFd>,
    /// Where the region starts in `mmap_fd`: area at `o` is mapped at file offset `mmap_offset + o`.
    pub mmap_offset: u64,
    /// Writes that the client's KVM may turn into the signal of an eventfd; the device hears of them by that.
    pub io_fds: IoFds<OwnedFd>,
}

impl Region {
    /// A region index that this device does not have.
    pub fn absent() -> Region {
        Region {
            size: 0,
            flags: RegionFlags::empty(),
            areas: Vec::new(),
            mmap_fd: None,
            mmap_offset: 0,
            io_fds: IoFds::default(),
        }
    }

    /// A readable and writable region that is reached by messages only.
    pub fn trapped(size: u64) -> Region {
        Region {
            size,
            flags: RegionFlags::READ | RegionFlags::WRITE,
            ..Region::absent()
        }
    }
}

/// One interrupt index, as DEVICE_GET_IRQ_INFO reports it. Count 0 means "not there".
#[derive(Debug, Clone, Copy)]
pub struct Irq {
    /// EVENTFD, MASKABLE, AUTOMASKED, NORESIZE.
    pub flags: IrqInfoFlags,
    /// Number of vectors.
    pub count: u32,
}

impl Irq {
    /// An interrupt index that this device does not have. (DEVICE_SET_IRQS on it is refused, but for the
    /// "disable all" form.)
    pub fn absent() -> Irq {
        Irq {
            flags: IrqInfoFlags::EVENTFD,
            count: 0,
        }
    }
}

/// Everything about a device that stays the same while it is served.
#[derive(Debug)]
pub struct DeviceDescription {
    /// Whether DEVICE_RESET works. Without it the command is refused with ENOTSUP.
    pub reset: bool,
    /// Indexed by `RegionIndex`: BAR0 to BAR5, ROM, config space, VGA (9 entries).
    pub regions: Vec<Region>,
    /// Indexed by `IrqIndex`: INTx, MSI, MSI-X, ERR, REQ (5 entries).
    pub irqs: Vec<Irq>,
}

impl DeviceDescription {
    /// The region at `index`, if there is such an index.
    pub fn region(&self, index: RegionIndex) -> Option<&Region> {
        self.regions.get(usize::try_from(index.0).ok()?)
    }

    /// The interrupt at `index`, if there is such an index.
    pub fn irq(&self, index: protocol::IrqIndex) -> Option<Irq> {
        self.irqs.get(usize::try_from(index.0).ok()?).copied()
    }
}

/// One device. Errors are what the client gets as errno; the connection lives on.
pub trait Backend: Send + Debug {
    /// Waits until the device is open, where its client is served before that. Until then it is asked for nothing but DMA maps, and
    /// to forget its client. An error: it cannot be opened.
    fn opened(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    /// What the device looks like. Changes in `client_gone` only.
    fn describe(&self) -> &DeviceDescription;

    /// Reads `data.len()` bytes. `offset..offset+len` is inside the region, which is readable; the length is at
    /// least 1 and at most `limits::MAX_DATA_XFER_BYTES`. Any width and alignment may come.
    fn region_read(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), Errno>;

    /// Writes `data`. The same bounds hold as for `region_read`. `dma` reaches client memory that was mapped
    /// without a file descriptor; a device whose DMA the hardware does ignores it.
    fn region_write(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &[u8],
        dma: &mut dyn MessageDma,
    ) -> Result<(), Errno>;

    /// Binds, unbinds, masks, unmasks or triggers interrupts. The index exists, `start..start+count` is inside
    /// its vectors (or it is the "disable all" form on an index that has vectors), every fd is an eventfd, and
    /// their number is `count`, or 0 to unbind `start..start+count`.
    fn set_irqs(&mut self, request: SetIrqs) -> Result<(), Errno>;

    /// Makes a range of client memory reachable for the device. The range is page aligned, overlaps no other of
    /// this session, and is within the number of maps allowed. With an fd: it is a memfd sealed against shrinking,
    /// long enough, with the access modes that the flags need. Without: memory by messages (`MessageDma`);
    /// a device that cannot do that accepts it and leaves it unreachable.
    /// Replied to only after the map is usable.
    fn dma_map(&mut self, map: &DmaMap) -> Result<(), Errno>;

    /// Undoes one `dma_map` with exactly this range. When it returns the device cannot reach the memory any more.
    /// An error is reported to the client, and the session stops serving, since the memory may still be reachable.
    fn dma_unmap(&mut self, range: IovaRange) -> Result<(), Errno>;

    /// Resets the device. DMA maps and interrupt bindings stay.
    fn reset(&mut self) -> Result<(), Errno>;

    /// The client is gone: forget its eventfds, unmap all its DMA, reset the device. When it returns the device
    /// is as a new client may find it. An error means that the device must not be given to another client.
    fn client_gone(&mut self) -> Result<(), Errno>;

    /// What else than its client the device waits for. The vfio backend waits for nothing: the kernel does it.
    fn event_source(&mut self) -> Option<&mut dyn EventSource> {
        None
    }
}

/// Something a software device waits for beside its client: a file descriptor that becomes readable.
pub trait EventSource {
    /// What to poll for input, if there is anything at this moment. Asked before every wait for a message; while it
    /// gives something, a message costs one system call more.
    fn readable_fd(&self) -> Option<BorrowedFd<'_>>;

    /// It was readable. Must take away what made it so.
    fn handle(&mut self);
}

/// Access to client memory by DMA_READ and DMA_WRITE messages, for devices that are software.
pub trait MessageDma {
    /// Fills `data` from client memory at `iova`. Split into messages as the client's limits demand.
    fn read(&mut self, iova: Iova, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes `data` to client memory at `iova`.
    fn write(&mut self, iova: Iova, data: &[u8]) -> Result<(), Errno>;
}
