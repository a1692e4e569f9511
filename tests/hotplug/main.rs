//! Devices come and go while the guest runs, by the operator's QMP commands and by the guest's own doing.
//!
//! All of it runs in the lab, but for `qmp_socket`. Lab machine: the standard one.

mod machine;
mod manual;
mod unplug;
mod loss;
mod refusals;
mod run_state;
mod leaks;
mod many;
