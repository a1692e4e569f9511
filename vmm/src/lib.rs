//! KVM, guest RAM, PCI topology and the supervisor stage.
