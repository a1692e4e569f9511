//! How a process is started with an explicit set of file descriptors and how it loses power.
//!
//! `prepare` is the parent's side: a child starts by exec with the descriptors, arguments and environment
//! that are listed and nothing else, and dies with its parent. `enter` is the child's side: it gives up what its role
//! does not need, before it reads a peer's first byte, and fails closed. `roles` are tables, with a reason per row;
//! `mechanisms` know one kernel feature each; `show` tells the tables to the operator; `sys` holds what needs unsafe code.
//! This crate knows nothing of virtual machines or vfio-user.

pub mod show;
pub mod prepare;
pub mod enter;
pub mod roles;
pub mod mechanisms;
pub mod profile;
pub mod sys;
