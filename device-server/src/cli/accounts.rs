//! Users and groups on the command line: by name, as the host knows it now, or by number.

use nix::unistd::{Group, User};

/// The number of a user.
pub(super) fn uid(text: &str) -> Result<u32, String> {
    number_or(text, "user", || {
        let found = User::from_name(text).map_err(|errno| errno.to_string())?;
        Ok(found.map(|user| user.uid.as_raw()))
    })
}

/// The number of a group.
pub(super) fn gid(text: &str) -> Result<u32, String> {
    number_or(text, "group", || {
        let found = Group::from_name(text).map_err(|errno| errno.to_string())?;
        Ok(found.map(|group| group.gid.as_raw()))
    })
}

fn number_or(
    text: &str,
    kind: &str,
    look_up: impl FnOnce() -> Result<Option<u32>, String>,
) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    look_up()?.ok_or_else(|| {
        format!("the host has no {kind} {text}; give a name that it knows, or a number")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_number_mean_the_same() {
        assert_eq!((uid("root"), gid("root")), (Ok(0), Ok(0)));
        assert_eq!((uid("4711"), gid("4711")), (Ok(4711), Ok(4711)));
        let error = uid("no-such-user-here").unwrap_err();
        assert!(error.contains("has no user no-such-user-here"), "{error}");
        gid("-1").unwrap_err();
    }
}
