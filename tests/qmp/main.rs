//! QMP of the running product, byte by byte: what is wrong on the socket, which sockets there are, who is told what.
//!
//! The guests are a few instructions each, so /dev/kvm is all that is needed: on this machine and in the lab. The official
//! Python client is driven by scripts/qmp-client, a Linux guest's part is in tests/hotplug.

mod machine;
mod bad_input;
mod junk;
mod sockets;
mod clients;
mod ends;
mod boot_files;
