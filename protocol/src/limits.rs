//! Every limit that a number of the peer must meet, and every deadline.
//!
//! Each has its unit in its name or type, its source, and the reason why it is bounded.

use std::time::Duration;

/// Bytes of the message header. Spec: "Header".
pub const HEADER_BYTES: usize = 16;

/// Largest payload of one REGION_READ/WRITE or DMA_READ/WRITE, in bytes (1 MiB).
/// Source: vfio-user default of `max_data_xfer_size`; what we announce, too.
/// Why bounded: the peer picks the count and we hold this much per connection.
pub const MAX_DATA_XFER_BYTES: u32 = 1 << 20;

/// Bytes of header and fixed part of the largest message, a full REGION_WRITE.
pub const DATA_XFER_HEAD_BYTES: u32 = 32;

/// Largest message taken, in bytes. Source: conformance.md, MAXMSG.
/// Why bounded: it is the size of the receive buffer; a larger size field ends the connection before the body is read.
pub const MAX_MESSAGE_BYTES: u32 = MAX_DATA_XFER_BYTES + DATA_XFER_HEAD_BYTES;

/// Bytes asked of the first `recvmsg` of a request: a head of 32 and a register of 4 bytes.
/// Source: no well-formed request that carries descriptors is shorter (SET_IRQS has 36 bytes), so a read that goes on
/// into the next request never leaves in doubt whose descriptors came.
/// Why bounded: what is read beyond the message belongs to the next one and has to be carried over.
pub const FIRST_READ_REQUEST_BYTES: usize = 36;

/// Bytes asked of the first `recvmsg` of a reply: a head of 32 and a register of 8 bytes.
/// Source: no well-formed reply that carries descriptors is shorter (REGION_INFO with areas has more than 48 bytes).
pub const FIRST_READ_REPLY_BYTES: usize = 40;

/// File descriptors that we take in one message, announced as `max_msg_fds`.
/// Source: QEMU refuses a server that announces more than 16.
pub const MAX_MSG_FDS: u32 = 16;

/// File descriptors that the kernel carries in one `sendmsg` (`SCM_MAX_FD`). Room for all of them is given to
/// every first read, so that none can be lost without being seen.
pub const KERNEL_MAX_FDS: usize = 253;

/// Bytes of the JSON text in VERSION, NUL included. Source: ours; the largest text of a known peer has about 200.
/// Why bounded: JSON costs many times its size in memory once it is parsed.
pub const MAX_VERSION_JSON_BYTES: usize = 16 << 10;

/// Bytes of our VERSION reply, header included. Source: QEMU takes no reply larger than its own request.
pub const MAX_VERSION_REPLY_BYTES: usize = 200;

/// The major version that we speak.
pub const VERSION_MAJOR: u16 = 0;

/// The highest minor version that we speak. Source: 0.2 of libvfio-user adds DMA_MAP flags that we refuse.
pub const VERSION_MINOR: u16 = 1;

/// Smallest page, in bytes, of a DMA map; announced as `pgsizes`.
pub const PAGE_BYTES: u64 = 4096;

/// Simultaneous DMA maps of one device. Source: vfio-user default of `max_dma_maps`.
pub const MAX_DMA_MAPS: u32 = 65535;

/// Bytes of one DMA map (8 TiB). Source: libvfio-user. Larger ones are answered with ENOSPC.
pub const MAX_DMA_MAP_BYTES: u64 = 1 << 43;

/// Regions that a PCI device has by definition (BAR0 to VGA).
pub const PCI_REGIONS: u32 = 9;

/// Interrupt indexes that a PCI device has by definition (INTx to REQ).
pub const PCI_IRQ_INDEXES: u32 = 5;

/// Largest `num_regions` that a client believes. Source: ours (QEMU: 100). Why bounded: one request per region.
pub const MAX_REGIONS: u32 = 64;

/// Largest `num_irqs` that a client believes. Source: ours (QEMU: 50). Why bounded: one request per index.
pub const MAX_IRQ_INDEXES: u32 = 50;

/// Largest BAR that a client believes, in bytes (1 TiB). Why bounded: the guest's address space has to hold it.
pub const MAX_BAR_BYTES: u64 = 1 << 40;

/// Sparse areas of one region. Source: ours; a BAR with the MSI-X table in its middle has 2.
/// Why bounded: each becomes a KVM memory slot.
pub const MAX_SPARSE_AREAS: usize = 256;

/// Capabilities in the chain of one region. Source: ours; two kinds exist.
pub const MAX_REGION_CAPABILITIES: usize = 16;

/// Bytes of a DEVICE_GET_REGION_INFO reply without its header. Source: head, chain of capabilities and sparse areas.
/// Why bounded: the server picks the number and the client asks again with it.
pub const MAX_REGION_INFO_BYTES: u32 = 8192;

/// Entries of one DEVICE_GET_REGION_IO_FDS reply. Why bounded: each becomes a KVM ioeventfd.
pub const MAX_IO_FDS: u32 = 1024;

/// Largest `argsz` of DEVICE_GET_REGION_IO_FDS, in bytes. Source: libvfio-user.
pub const MAX_IO_FDS_ARGSZ: u32 = 1 << 20;

/// Vectors of MSI. Source: PCI, Message Control has 3 bits of log2.
pub const MAX_MSI_VECTORS: u32 = 32;

/// Vectors of MSI-X. Source: PCI, Table Size has 11 bits.
pub const MAX_MSIX_VECTORS: u32 = 2048;

/// Data bytes of one entry of REGION_WRITE_MULTI. Spec: the entry has 8.
pub const MAX_WRITE_MULTI_BYTES: u32 = 8;

/// Ranges of one DMA_LOGGING_START. Why bounded: they are walked; a guest's RAM has a handful.
pub const MAX_LOGGING_RANGES: u32 = 4096;

/// Requests that one client has in flight, at most. Why bounded: the table is made at start.
pub const MAX_IN_FLIGHT: usize = 64;

/// Questions that are sent before the first is answered, at most. Source: as many as a PCI device has regions. Why bounded: others have
/// requests in flight too, and the answers have to fit the sockets' buffers.
pub const MAX_QUESTIONS: usize = 9;

/// Requests that a server sets aside while it waits for the client's answer to a DMA message.
/// Why bounded: the client picks how many it sends.
pub const MAX_STASHED_REQUESTS: usize = 1024;

/// Bytes of the requests that a server sets aside, in total.
pub const MAX_STASHED_BYTES: usize = 4 << 20;

/// DMA messages that one access of a backend may become. Why bounded: the client picks the size of each.
pub const MAX_DMA_MESSAGES: usize = 4096;

/// Requests of the server that one call of `Client::service` answers before it returns to the event loop.
pub const MAX_SERVED_PER_CALL: usize = 64;

/// How long one access may take, from the request to the whole reply.
pub const ACCESS_DEADLINE: Duration = Duration::from_secs(5);

/// What a map of guest memory may take beyond an access, however small it is: the lab beside other load took more than 17 s for
/// 512 MiB. No vCPU waits for it; who attaches the next device does.
pub const DMA_MAP_TIME: Duration = Duration::from_secs(60);

/// The same for each GiB of it. Source: the server's kernel allocates, zeroes
/// and pins every page inside the call; a busy host zeroes about 1 GiB a second, the lab's emulated one 0.2 for one server
/// and half of that for each of two.
pub const DMA_MAP_TIME_PER_GIB: Duration = Duration::from_secs(12);

/// How often a client that relies on its event loop looks for requests that are late.
pub const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// How long a reset may take. Source: the kernel may wait 60 s for a function-level reset.
pub const RESET_DEADLINE: Duration = Duration::from_secs(70);

/// How long a client may take to send VERSION after it connected.
pub const NEGOTIATION_DEADLINE: Duration = Duration::from_secs(5);

/// How long a message may take from its first byte to its last.
pub const MESSAGE_DEADLINE: Duration = Duration::from_secs(5);

/// How long the peer may keep a message of ours from being written.
pub const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// How long closing what a peer sent may take before its connection ends. Source: that of an access, which it may be a part of.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// How often a thread that closes is interrupted meanwhile.
pub const CLOSE_REMINDER: Duration = Duration::from_millis(100);

/// Descriptors of all peers that are not closed yet, beyond which no peer is let in. Why bounded: they count as open.
pub const MAX_UNCLOSED: usize = 1024;

/// The same of one client of a socket on which no descriptors are due: what one message can carry, twice.
pub const MAX_UNCLOSED_OF_CLIENT: usize = 2 * KERNEL_MAX_FDS;

/// Threads that a program with many peers has for it: peers that can each hold one up before nobody is heard any more.
pub const CLOSING_THREADS: usize = 4;

const _: () = assert!(
    MAX_REGION_INFO_BYTES as usize
        >= 32 + 16 + 16 * MAX_SPARSE_AREAS + 16 * MAX_REGION_CAPABILITIES
);
const _: () = assert!(FIRST_READ_REQUEST_BYTES == DATA_XFER_HEAD_BYTES as usize + 4);
const _: () = assert!(FIRST_READ_REPLY_BYTES == DATA_XFER_HEAD_BYTES as usize + 8);
