//! conformance.md part A against the real binary: what a hostile or odd client can send, one test per row.
//!
//! A test is named after its row. Each starts a server of its own with the test device, speaks bytes to it over a real
//! socket (`harness::raw_peer`). What is refused ends with `Server::is_unharmed_by`: the connection is in step or closed, no
//! descriptor is left, memory is bounded, the next client is served.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails, and its numbers are small constants"
)]

mod framing;
mod version;
mod fds;
mod held;
mod dma_map;
mod dma_unmap;
mod info;
mod region;
mod write_multi;
mod irqs;
mod message_dma;
mod flow;
mod lifecycle;
mod disconnect;
mod client;
mod start;
mod log;
mod metrics;
mod service;
mod support;
