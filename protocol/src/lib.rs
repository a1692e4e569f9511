//! The vfio-user protocol engine, both sides, and the supervisor's control messages.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
