//! Resource limits, soft and hard alike, so that they cannot be raised again.

use rustix::process::{Rlimit, getrlimit, setrlimit};

use super::MechanismError;

pub use rustix::process::Resource;

/// One resource limit.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Which resource.
    pub resource: Resource,
    /// At most this much; `None`: no limit.
    pub value: Option<u64>,
    /// The reason for this value.
    pub why: &'static str,
}

/// Applies them. A limit above what is allowed already is lowered to that, as only privilege could raise it.
pub fn apply(limits: &[Limit]) -> Result<String, MechanismError> {
    let mut shown = Vec::new();
    for limit in limits {
        let step = || format!("limit {:?} ({})", limit.resource, limit.why);
        let wanted = Rlimit {
            current: limit.value,
            maximum: limit.value,
        };
        let set = match setrlimit(limit.resource, wanted) {
            Err(rustix::io::Errno::PERM) => {
                let maximum = getrlimit(limit.resource).maximum;
                setrlimit(
                    limit.resource,
                    Rlimit {
                        current: maximum,
                        maximum,
                    },
                )
                .map(|()| maximum)
            }
            result => result.map(|()| limit.value),
        };
        let value = set.map_err(|errno| MechanismError::new(step(), errno))?;
        let value = value.map_or("unlimited".to_owned(), |value| value.to_string());
        shown.push(format!("{:?} {value}", limit.resource));
    }
    Ok(shown.join(", "))
}
