//! Devices come and go while the guest runs, by the operator's QMP commands and by the guest's own doing.
//!
//! All of it runs in the lab, on machines that scripts/test-support/lab_sets.py describes.

mod machine;
mod manual;
mod unplug;
mod loss;
mod recall;
mod errors;
mod managed;
mod races;
mod supervision;
mod refusals;
mod run_state;
mod spare;
mod client;
mod leaks;
mod many;
