//! The device as a PCI function of the guest: configuration space, BAR accesses, reset, loss.
//!
//! Order: what a guest write takes away (a BAR that stops to decode) goes before the device hears of the write; what it
//! adds comes after. So the guest never reaches memory that the device does not answer for. The same holds around a
//! function-level reset, a power-down and a guest reset.
//!
//! Locks: `config`, `table` and `bars` are held for our own state only, never across a request. A trapped BAR access takes
//! none around its request. `turn` orders configuration writes and resets of one device, and `interrupts` its SET_IRQS;
//! both are held across requests. The server does them one after another in any case, and each has a deadline.
//! Order of taking: `turn`, `interrupts`, then `bars`, `table` or `config`.
//!
//! A reset of the device, by the guest's function-level reset too, is only started here: it may take a minute, and no
//! vCPU waits for it. Until it has ended the device looks as on a real bus: reads give ones, writes are dropped.
//!
//! A lost device (the server is gone or has broken the rules): its BARs leave the guest at once, reads give ones, writes are
//! dropped, one line says why. Whoever has the device then calls `detach`. The VM lives on.

mod bar_access;
mod inspect;
mod loss;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use protocol::RegionIndex;
use protocol::client::{Client, ClientError};
use tracing::Span;

use self::bar_access::BarTrap;
use super::bars::BarMap;
use super::capabilities::MsixLayout;
use super::config::{DeviceConfig, InterruptMode, Written};
use super::host_notices::NoticeFd;
use super::interrupts::Interrupts;
use super::latency::Latency;
use super::msix::MsixTable;
use super::notices::Notices;
use crate::address_space::Trap;
use crate::kvm::Gsi;
use crate::one_line::one_line;
use crate::pci::{BarRequest, IntxRoute, PciFunction};

const COMMAND: u64 = 0x04;

/// A device behind a vfio-user socket, in the guest's topology.
pub struct VfioUserFunction {
    me: Weak<VfioUserFunction>,
    id: String,
    pci: String,
    span: Span,
    client: Arc<Client>,
    can_reset: bool,
    msix: Option<MsixLayout>,
    turn: Mutex<()>,
    interrupts: Mutex<Interrupts>,
    host_notices: Vec<NoticeFd>,
    bars: Mutex<BarMap>,
    table: Mutex<MsixTable>,
    config: Mutex<DeviceConfig>,
    is_lost: AtomicBool,
    notices: Notices,
    latency: Latency,
}

/// What `attach.rs` puts together.
pub(super) struct Parts {
    pub(super) id: String,
    /// Its address on the host, as logs show it.
    pub(super) pci: String,
    pub(super) client: Arc<Client>,
    pub(super) can_reset: bool,
    pub(super) msix: Option<MsixLayout>,
    pub(super) interrupts: Interrupts,
    pub(super) host_notices: Vec<NoticeFd>,
    pub(super) bars: BarMap,
    pub(super) config: DeviceConfig,
}

impl VfioUserFunction {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let span = telemetry::device::span(&parts.id, &parts.pci);
        let vectors = parts.msix.map_or(0, |layout| layout.vectors);
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            notices: Notices::new(span.clone()),
            span,
            id: parts.id,
            pci: parts.pci,
            client: parts.client,
            can_reset: parts.can_reset,
            msix: parts.msix,
            turn: Mutex::new(()),
            interrupts: Mutex::new(parts.interrupts),
            host_notices: parts.host_notices,
            bars: Mutex::new(parts.bars),
            table: Mutex::new(MsixTable::new(vectors)),
            config: Mutex::new(parts.config),
            is_lost: AtomicBool::new(false),
            latency: Latency::default(),
        })
    }

    /// Serves the server's requests and notices when it is gone. False once the device is lost: take the descriptor out
    /// of the event loop.
    pub fn service(&self) -> bool {
        let served = self.client.service();
        self.in_reset();
        self.notice_loss();
        served.is_ok()
    }

    /// From now on a thread that does nothing else calls [`Self::service`] whenever its descriptor is readable: it looks
    /// for accesses that are late, which then need no timers of their own.
    pub fn is_watched(&self) {
        if let Err(error) = self.client.rely_on_service() {
            let error = one_line(&error);
            tracing::warn!(parent: &self.span, error, "accesses keep their own timers");
        }
    }

    /// KVM cannot reach the memory behind a slot: takes this device's slots at `gpa` away (all if it is not known), so
    /// that the access comes again as a trapped one. True if there were any.
    pub fn drop_lost_mappings(&self, gpa: Option<u64>) -> bool {
        let dropped = lock(&self.bars).unmap_slots(gpa);
        if dropped {
            self.notices
                .once("BAR memory cannot be reached; accesses are trapped until it decodes anew");
        }
        dropped
    }

    /// Lets the device go: interrupts off, BARs out of the guest and unmapped, guest memory taken back, connection closed. When
    /// this returns, this process holds nothing of the device any more. An error: its server did not say that it holds nothing of
    /// the guest's memory any more; it has to forget it with the connection.
    pub fn detach(&self) -> Result<(), String> {
        let _turn = lock(&self.turn);
        // From here on nobody wires or maps anything any more.
        self.is_lost.store(true, Ordering::Release);
        lock(&self.interrupts).stop();
        let mapped = lock(&self.bars).release();
        drop(mapped);
        let unmapped = match self.client.lost() {
            None => self.client.dma_unmap_all(),
            Some(_) => Ok(()),
        };
        self.client.shutdown();
        unmapped.map_err(|error| {
            let error = one_line(&error);
            format!("its server did not say that it let go of the guest's memory: {error}")
        })
    }

    fn trap(&self, bar: u8) -> Arc<dyn Trap> {
        Arc::new(BarTrap {
            function: Weak::clone(&self.me),
            bar,
        })
    }

    fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    fn region_read(&self, region: RegionIndex, offset: u64, data: &mut [u8]) {
        let result = self.client.region_read(region, offset, data);
        if result.is_err() || self.is_lost() {
            data.fill(0xff);
        }
        self.sent("a read failed", result);
    }

    /// Notes an answer: a refusal concerns the guest's access only, a loss the whole device. True if it succeeded.
    fn sent(&self, what: &'static str, result: Result<(), ClientError>) -> bool {
        let Err(error) = result else { return true };
        // Busy is our own answer, while the device is in reset.
        let is_ours = matches!(error, ClientError::Busy { .. });
        if !is_ours && !self.is_lost() && self.client.lost().is_none() {
            self.notices.failed(what, &error);
        }
        false
    }

    fn sync_vectors(&self, touched: std::ops::Range<u32>) {
        let _device = self.span.enter();
        let mut interrupts = lock(&self.interrupts);
        let mode = lock(&self.config).interrupt_mode();
        if let InterruptMode::Msix { mask_all } = mode {
            let table = lock(&self.table).clone();
            interrupts.sync_msix(touched, mask_all, &table);
        }
    }

    fn sync_interrupts(&self) {
        let _device = self.span.enter();
        let mut interrupts = lock(&self.interrupts);
        if self.is_lost() {
            return;
        }
        let mode = lock(&self.config).interrupt_mode();
        let table = self.msix.map(|_| lock(&self.table).clone());
        interrupts.sync(&mode, table.as_ref());
    }

    fn sync_bars(&self) {
        let mut bars = lock(&self.bars);
        // Under the lock of the map: a device that is lost in between has lost its areas, or loses them next.
        let wanted = if self.is_lost() {
            Vec::new()
        } else {
            lock(&self.config).decoded()
        };
        bars.apply(&wanted, |bar| self.trap(bar));
    }

    fn forward(&self, written: &Written) {
        let last = written.forward.len().checked_sub(1);
        for (index, (offset, bytes)) in written.forward.iter().enumerate() {
            let (config, offset) = (RegionIndex::CONFIG, u64::from(*offset));
            let result = if written.function_reset && Some(index) == last {
                self.client.start_region_write(config, offset, bytes)
            } else {
                self.client.region_write(config, offset, bytes)
            };
            self.sent("a write of configuration space failed", result);
        }
    }

    /// The device does not answer before its reset has ended. Says how one ended that failed.
    fn in_reset(&self) -> bool {
        if self.client.is_busy() {
            return true;
        }
        if let Some(Err(error)) = self.client.take_reset_outcome() {
            self.notices.failed("the device was not reset", &error);
        }
        false
    }

    /// Everything of ours back to power-on: nothing decodes, no interrupts.
    fn power_on(&self) {
        lock(&self.config).reset();
        lock(&self.bars).retain(&[]);
        *lock(&self.table) = MsixTable::new(self.msix.map_or(0, |layout| layout.vectors));
        self.sync_interrupts();
    }
}

impl PciFunction for VfioUserFunction {
    fn id(&self) -> &str {
        &self.id
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        if self.is_lost() || self.in_reset() {
            return;
        }
        let (from_device, pending) = {
            let config = lock(&self.config);
            (
                config.needs_device(offset, data.len()),
                config.msi_pending_at(offset, data.len()),
            )
        };
        if from_device {
            self.region_read(RegionIndex::CONFIG, u64::from(offset), data);
            self.notice_loss();
        }
        if let Some(at) = pending {
            let interrupts = lock(&self.interrupts);
            let bits = (0..32)
                .filter(|vector| interrupts.pending(*vector))
                .fold(0u32, |bits, bit| bits | 1 << bit);
            drop(interrupts);
            lock(&self.config).show_msi_pending(at, bits);
        }
        if !self.is_lost() {
            lock(&self.config).overlay(offset, data);
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        if self.is_lost() {
            return;
        }
        let turn = lock(&self.turn);
        if self.in_reset() {
            return;
        }
        let (written, decoded) = {
            let mut config = lock(&self.config);
            (config.write(offset, data), config.decoded())
        };
        if written.function_reset {
            self.power_on();
        } else if written.decode {
            lock(&self.bars).retain(&decoded);
        }
        self.forward(&written);
        if written.decode && !written.function_reset {
            self.sync_bars();
        }
        if written.interrupts && !written.function_reset {
            self.sync_interrupts();
        }
        drop(turn);
        self.notice_loss();
    }

    fn bars(&self) -> Vec<BarRequest> {
        lock(&self.config).requests()
    }

    fn placed(&self, route: IntxRoute) {
        let pin = lock(&self.config).pin();
        if let Some(gsi) = pin.and_then(|pin| route.gsi.get(usize::from(pin))) {
            lock(&self.interrupts).place_pin(Gsi(*gsi));
        }
    }

    fn reset(&self) {
        let turn = lock(&self.turn);
        // 1. The guest reaches nothing of the device, and hears nothing of it.
        self.power_on();
        // A reset that is not over yet will do.
        if !self.is_lost() && !self.in_reset() {
            // 2. No DMA, no decoding; the reset brings back what was set before it.
            let off = self
                .client
                .region_write(RegionIndex::CONFIG, COMMAND, &[0, 0]);
            self.sent("the device was not turned off before its reset", off);
            // 3. The device itself.
            if !self.can_reset {
                self.notices
                    .once("the guest was reset, the device cannot be: it keeps its state");
            } else {
                self.sent("the device was not reset", self.client.start_reset());
            }
        }
        drop(turn);
        self.notice_loss();
    }

    fn finish_reset(&self) {
        if let Err(error) = self.client.finish_reset()
            && self.client.lost().is_none()
        {
            let what = "the device was not reset with the guest";
            self.notices.failed(what, &error);
        }
        self.notice_loss();
    }
}

/// Readable when [`VfioUserFunction::service`] must be called.
impl AsFd for VfioUserFunction {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.poll_fd()
    }
}

impl std::fmt::Debug for VfioUserFunction {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("VfioUserFunction")
            .field("id", &self.id)
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
