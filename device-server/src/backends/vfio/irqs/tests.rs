use rustix::event::{EventfdFlags, eventfd};

use super::*;

/// Answers as VFIO does, and notes what it was asked.
#[derive(Debug, Default)]
struct FakeKernel {
    calls: Vec<String>,
    most_vectors: Option<u32>,
    enabled_vectors: u32,
}

impl IrqControl for FakeKernel {
    fn set_irqs(&mut self, header: IrqHeader, payload: &IrqPayload<'_>) -> io::Result<u32> {
        let data = match payload {
            IrqPayload::None => "none".to_owned(),
            IrqPayload::Bool(values) => format!("{values:?}"),
            IrqPayload::Eventfd(fds) => fds
                .iter()
                .map(|fd| if fd.is_some() { '+' } else { '-' })
                .collect(),
        };
        let IrqHeader {
            flags,
            index,
            start,
            count,
        } = header;
        self.calls.push(format!(
            "{index} {:#x} {start}+{count} {data}",
            flags & 0x38
        ));
        let end = start.checked_add(count).unwrap();
        match payload {
            IrqPayload::Eventfd(_) if self.most_vectors.is_some_and(|most| end > most) => {
                return Ok(self.most_vectors.unwrap());
            }
            IrqPayload::Eventfd(_)
                if index == 2 && self.enabled_vectors > 0 && end > self.enabled_vectors =>
            {
                return Err(io::Error::from_raw_os_error(22));
            }
            IrqPayload::Eventfd(_) if index == 2 => {
                self.enabled_vectors = self.enabled_vectors.max(end)
            }
            IrqPayload::None if count == 0 => self.enabled_vectors = 0,
            IrqPayload::None | IrqPayload::Bool(_) | IrqPayload::Eventfd(_) => {}
        }
        Ok(0)
    }
}

fn interrupts(msix: IrqInfoFlags) -> Interrupts {
    let irq = |flags, count| Irq { flags, count };
    Interrupts::new(&[
        irq(
            IrqInfoFlags::EVENTFD | IrqInfoFlags::MASKABLE | IrqInfoFlags::AUTOMASKED,
            1,
        ),
        irq(IrqInfoFlags::EVENTFD | IrqInfoFlags::NORESIZE, 1),
        irq(IrqInfoFlags::EVENTFD | msix, 65),
        irq(IrqInfoFlags::EVENTFD | IrqInfoFlags::NORESIZE, 1),
        irq(IrqInfoFlags::EVENTFD | IrqInfoFlags::NORESIZE, 1),
    ])
}

fn request(index: IrqIndex, start: u32, count: u32, action: IrqAction, data: IrqData) -> SetIrqs {
    SetIrqs {
        index,
        start,
        count,
        action,
        data,
    }
}

fn eventfds(count: u32) -> IrqData {
    IrqData::Eventfd(
        (0..count)
            .map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap().into())
            .collect(),
    )
}

fn bind(index: IrqIndex, start: u32, count: u32) -> SetIrqs {
    request(index, start, count, IrqAction::Trigger, eventfds(count))
}

fn disable(index: IrqIndex) -> SetIrqs {
    request(index, 0, 0, IrqAction::Trigger, IrqData::None)
}

#[test]
fn chunks_of_a_fixed_index_enable_it_anew_and_fire_what_was_bound() {
    let (mut kernel, mut irqs) = (FakeKernel::default(), interrupts(IrqInfoFlags::NORESIZE));
    irqs.set(&mut kernel, bind(IrqIndex::MSIX, 0, 2)).unwrap();
    irqs.set(&mut kernel, bind(IrqIndex::MSIX, 2, 2)).unwrap();
    assert_eq!(
        kernel.calls,
        [
            "2 0x20 0+2 ++",
            "2 0x20 0+0 none",
            "2 0x20 0+4 ++++",
            "2 0x20 0+2 none"
        ]
    );
}

#[test]
fn chunks_of_a_resizable_index_go_straight_to_the_kernel() {
    let (mut kernel, mut irqs) = (FakeKernel::default(), interrupts(IrqInfoFlags::empty()));
    irqs.set(&mut kernel, bind(IrqIndex::MSIX, 0, 2)).unwrap();
    kernel.enabled_vectors = 65;
    irqs.set(&mut kernel, bind(IrqIndex::MSIX, 2, 2)).unwrap();
    assert_eq!(kernel.calls, ["2 0x20 0+2 ++", "2 0x20 2+2 ++"]);
    assert!(irqs.indexes[2].allocated.is_empty(), "no eventfd is kept");
}

#[test]
fn growing_past_what_the_host_has_leaves_the_old_vectors_bound() {
    let mut kernel = FakeKernel {
        most_vectors: Some(3),
        ..FakeKernel::default()
    };
    let mut irqs = interrupts(IrqInfoFlags::NORESIZE);
    irqs.set(&mut kernel, bind(IrqIndex::MSIX, 0, 2)).unwrap();
    assert_eq!(
        irqs.set(&mut kernel, bind(IrqIndex::MSIX, 2, 2)),
        Err(Errno::NOSPC)
    );
    assert_eq!(kernel.enabled_vectors, 2);
    assert!(irqs.indexes[2].enabled);
    assert_eq!(irqs.indexes[2].allocated.len(), 2);
}

#[test]
fn unbinding_vectors_that_were_never_allocated_succeeds() {
    let (mut kernel, mut irqs) = (FakeKernel::default(), interrupts(IrqInfoFlags::NORESIZE));
    irqs.set(&mut kernel, bind(IrqIndex::MSIX, 0, 2)).unwrap();
    irqs.set(
        &mut kernel,
        request(IrqIndex::MSIX, 1, 64, IrqAction::Trigger, eventfds(0)),
    )
    .unwrap();
    irqs.set(
        &mut kernel,
        request(IrqIndex::MSIX, 5, 60, IrqAction::Trigger, eventfds(0)),
    )
    .unwrap();
    assert_eq!(kernel.calls[1..], ["2 0x20 1+1 -"]);
}

#[test]
fn unbinding_or_disabling_what_is_not_enabled_asks_nothing_of_the_kernel() {
    let (mut kernel, mut irqs) = (FakeKernel::default(), interrupts(IrqInfoFlags::NORESIZE));
    irqs.set(
        &mut kernel,
        request(IrqIndex::MSI, 0, 1, IrqAction::Trigger, eventfds(0)),
    )
    .unwrap();
    irqs.set(&mut kernel, disable(IrqIndex::MSIX)).unwrap();
    assert!(kernel.calls.is_empty());
}

#[test]
fn intx_resample_is_an_unmask_with_an_eventfd() {
    let (mut kernel, mut irqs) = (FakeKernel::default(), interrupts(IrqInfoFlags::empty()));
    irqs.set(&mut kernel, bind(IrqIndex::INTX, 0, 1)).unwrap();
    irqs.set(
        &mut kernel,
        request(IrqIndex::INTX, 0, 1, IrqAction::Unmask, eventfds(1)),
    )
    .unwrap();
    assert_eq!(kernel.calls, ["0 0x20 0+1 +", "0 0x10 0+1 +"]);
}

#[test]
fn q37_eventfd_for_masking_is_taken_and_not_shown_to_the_kernel() {
    let (mut kernel, mut irqs) = (FakeKernel::default(), interrupts(IrqInfoFlags::empty()));
    let result = irqs.set(
        &mut kernel,
        request(IrqIndex::INTX, 0, 1, IrqAction::Mask, eventfds(1)),
    );
    assert_eq!(result, Ok(()));
    assert!(kernel.calls.is_empty());
}

#[test]
fn disable_all_disables_exactly_what_is_enabled() {
    let (mut kernel, mut irqs) = (FakeKernel::default(), interrupts(IrqInfoFlags::NORESIZE));
    irqs.set(&mut kernel, bind(IrqIndex::MSIX, 0, 3)).unwrap();
    irqs.set(&mut kernel, bind(IrqIndex::ERR, 0, 1)).unwrap();
    irqs.disable_all(&mut kernel).unwrap();
    assert_eq!(kernel.calls[2..], ["2 0x20 0+0 none", "3 0x20 0+0 none"]);
    irqs.disable_all(&mut kernel).unwrap();
    assert_eq!(kernel.calls.len(), 4);
}
