//! How a process is started with an explicit set of file descriptors and how it loses power.
//!
//! `prepare` is the parent's side: a child starts by exec with the descriptors, arguments and environment
//! that are listed and nothing else, and dies with its parent. `sys` holds what needs unsafe code.
//! This crate knows nothing of virtual machines or vfio-user.

pub mod prepare;
pub mod sys;
