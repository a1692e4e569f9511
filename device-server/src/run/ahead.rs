//! Filters of system calls that are made before the descriptors are there that they name.
//!
//! A server that waits gets its descriptors in one message, and the kernel gives each the lowest number that is free. So their numbers can be
//! told from what comes; a filter is used only if what came has exactly the numbers that it was made for.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use sandbox::mechanisms::seccomp::Filter;
use sandbox::roles::vfio::{self, IommuDescriptor, Renewal, VfioDescriptors};

use crate::backends::vfio::IommuBackend;

use super::Filtering;

/// Filters, each with the descriptors that it is for.
pub(super) struct Ahead(Vec<(VfioDescriptors, Filter)>);

impl Ahead {
    /// For every way that an order can take. What cannot be made ahead is made later, with its error.
    pub(super) fn make(backend: IommuBackend) -> Ahead {
        let expected = first_free().map(|first| expected(first, backend));
        let made = expected
            .unwrap_or_default()
            .into_iter()
            .filter_map(|descriptors| {
                let calls = vfio::calls(&descriptors, &[]);
                let filter = Filter::new(&calls.rules, &calls.refused).ok()?;
                Some((descriptors, filter))
            });
        Ahead(made.collect())
    }

    /// What to filter with, now that the descriptors are there.
    pub(super) fn take(self, descriptors: &VfioDescriptors) -> Filtering {
        let mut made = self.0.into_iter();
        match made.find(|(expected, _)| expected == descriptors) {
            Some((_, filter)) => Filtering::Made(filter),
            None => {
                tracing::debug!(
                    ?descriptors,
                    "The filter of system calls was not made ahead"
                );
                Filtering::ByTable(vfio::calls(descriptors, &[]))
            }
        }
    }
}

/// The number that the next descriptor gets.
fn first_free() -> io::Result<RawFd> {
    let copy = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 0)?;
    Ok(copy.as_raw_fd())
}

/// The numbers that a device and its mappings will have, where the next number is `first`. What comes is the socket, the group's two
/// where they are sent, and the iommufd's two (`protocol::supervisor::OrderFds`); then the way is chosen, the other's are closed, and what
/// maps memory is copied.
fn expected(first: RawFd, backend: IommuBackend) -> Vec<VfioDescriptors> {
    let number = |place: RawFd| first.saturating_add(place);
    let descriptors = |device, iommu| VfioDescriptors {
        devices: vec![device],
        iommu,
        renewal: Renewal::Never,
    };
    let early = |descriptors: &VfioDescriptors| VfioDescriptors {
        renewal: Renewal::Once(number(2)),
        ..descriptors.clone()
    };
    // The copy of the container, and then the device or what keeps its number, come after the socket and the group's two.
    let type1 = descriptors(number(4), IommuDescriptor::Type1(number(3)));
    // The copy of the iommufd comes after the three.
    let iommufd = descriptors(number(2), IommuDescriptor::Iommufd(number(3)));
    // The copy comes where the group's first was.
    let of_both = descriptors(number(4), IommuDescriptor::Iommufd(number(1)));
    match backend {
        IommuBackend::Type1 => vec![early(&type1), type1],
        IommuBackend::Iommufd => vec![iommufd],
        IommuBackend::Auto => vec![early(&type1), type1, iommufd, of_both],
    }
}
