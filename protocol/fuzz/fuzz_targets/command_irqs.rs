//! DEVICE_SET_IRQS: what is taken agrees with itself.
#![no_main]

mod decode;
mod descriptors;

use libfuzzer_sys::fuzz_target;
use protocol::{Command, IrqAction, IrqData};

fuzz_target!(|data: &[u8]| {
    let Some(Ok(Command::SetIrqs(request))) = decode::request(&[8], data) else {
        return;
    };
    let count = request.count as usize;
    assert!(request.index.0 < 5);
    assert!(request.start as usize + count <= 2048);
    match &request.data {
        IrqData::None if count == 0 => {
            assert!(request.start == 0 && request.action == IrqAction::Trigger);
        }
        IrqData::None => {}
        IrqData::Bool(bools) => assert_eq!(bools.len(), count),
        IrqData::Eventfd(fds) => assert!(count > 0 && (fds.is_empty() || fds.len() == count)),
    }
});
