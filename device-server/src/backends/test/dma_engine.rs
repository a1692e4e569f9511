//! The DMA engine of the test device: copies, fills and sums client memory.
//!
//! A job runs to its end inside the register write that starts it, through a buffer of fixed size. A job that may not
//! touch all of its memory touches none of it. Limit: `MAX_JOB_BYTES` per job.

use protocol::{DmaMapFlags, Errno, Iova};

use crate::backend::MessageDma;
use crate::dma::SharedDma;

/// Largest job, in bytes (1 MiB). Why bounded: the client waits for the reply to the write that started it.
const MAX_JOB_BYTES: u32 = 1 << 20;

/// Bytes moved at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// The command field of DMA_COMMAND. Unknown values fail with EINVAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DmaCommand(pub(super) u32);

impl DmaCommand {
    /// Copy from source to destination.
    pub(super) const COPY: DmaCommand = DmaCommand(1);
    /// Fill the destination with the SCRATCH register, repeated.
    pub(super) const FILL: DmaCommand = DmaCommand(2);
    /// Add up the bytes of the source; the sum is the result.
    pub(super) const SUM: DmaCommand = DmaCommand(3);
}

/// One job, as the registers described it when it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DmaJob {
    pub(super) command: DmaCommand,
    pub(super) source: Iova,
    pub(super) destination: Iova,
    pub(super) len_bytes: u32,
    pub(super) pattern: u32,
}

/// The engine and its buffer.
#[derive(Debug)]
pub(super) struct DmaEngine {
    buffer: Vec<u8>,
}

impl DmaEngine {
    pub(super) fn new() -> DmaEngine {
        DmaEngine {
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Runs one job. Gives the value for DMA_RESULT.
    pub(super) fn run(
        &mut self,
        job: DmaJob,
        memory: &SharedDma,
        messages: &mut dyn MessageDma,
    ) -> Result<u32, Errno> {
        if job.len_bytes > MAX_JOB_BYTES {
            return Err(Errno::TOOBIG);
        }
        let len = usize::try_from(job.len_bytes).map_err(|_| Errno::TOOBIG)?;
        let (reads, writes) = match job.command {
            DmaCommand::COPY => (true, true),
            DmaCommand::FILL => (false, true),
            DmaCommand::SUM => (true, false),
            DmaCommand(_) => return Err(Errno::INVAL),
        };
        if reads {
            memory.check(job.source, len, DmaMapFlags::READ)?;
        }
        if writes {
            memory.check(job.destination, len, DmaMapFlags::WRITE)?;
        }
        let mut sum = 0u32;
        self.fill_buffer(job.pattern);
        let mut done = 0;
        while done < len {
            let now = len.saturating_sub(done).min(BUFFER_BYTES);
            let buffer = self.buffer.get_mut(..now).ok_or(Errno::INVAL)?;
            if reads {
                memory.read(at(job.source, done), buffer, messages)?;
                sum = buffer
                    .iter()
                    .fold(sum, |sum, byte| sum.wrapping_add((*byte).into()));
            }
            if writes {
                memory.write(at(job.destination, done), buffer, messages)?;
            }
            done = done.saturating_add(now);
        }
        Ok(sum)
    }

    fn fill_buffer(&mut self, pattern: u32) {
        for word in self.buffer.chunks_exact_mut(4) {
            word.copy_from_slice(&pattern.to_le_bytes());
        }
    }
}

/// `base + done`. Cannot wrap where it matters: `SharedDma::check` has found every byte of the job mapped.
fn at(base: Iova, done: usize) -> Iova {
    Iova(base.0.wrapping_add(u64::try_from(done).unwrap_or(u64::MAX)))
}
