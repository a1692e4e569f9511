//! One kernel feature per file. Each applies what it is told, and says what is in force.

pub mod seccomp;
pub mod landlock;
pub mod inherited;
pub mod identity;
pub mod capabilities;
pub mod root;
pub mod namespaces;
pub mod rlimits;
pub mod fds;

use std::io;

/// A mechanism could not be applied.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct MechanismError {
    step: String,
    #[source]
    source: io::Error,
}

impl MechanismError {
    pub(crate) fn new(step: impl Into<String>, source: impl Into<io::Error>) -> MechanismError {
        MechanismError {
            step: step.into(),
            source: source.into(),
        }
    }

    /// For `map_err`.
    pub(crate) fn at<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> MechanismError {
        move |source| MechanismError::new(step, source)
    }
}
