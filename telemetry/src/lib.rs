//! What the operator sees of a running process: log lines, security events, and metrics on a socket.
//!
//! Both binaries use it, so that their logs and metrics read alike. Nothing here is opened after a sandbox is entered:
//! log files, the journal's socket and the metrics socket are open before.
//! Not here: what is counted (`device-server`, `vmm`), and what a line says.

pub mod log;
mod journal;
pub mod security;
pub mod device;
pub mod metrics;
pub mod service;

pub use journal::Journal;
