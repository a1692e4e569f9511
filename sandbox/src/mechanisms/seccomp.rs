//! The system call filter: a list of rules, each with its reason; anything else kills the process.
//!
//! Only the native ABI: calls of i386 and x32 are not in the list, so they kill too.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, BpfProgramRef, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::MechanismError;

/// A compiled filter.
pub type Program = BpfProgram;

/// A system call that is allowed, under conditions on its arguments.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its number.
    pub syscall: i64,
    /// All of these must hold.
    pub arguments: Vec<(u8, Arg)>,
    /// Who needs it, what for.
    pub why: &'static str,
}

/// What an argument must be. Compared as 32 bits, which is what the kernel takes of descriptors, flags and commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// This.
    Equals(u64),
    /// Not this.
    Differs(u64),
    /// None of these bits.
    WithoutBits(u64),
    /// All of these bits.
    HasBits(u64),
    /// Less than this, as a number without a sign.
    Below(u64),
    /// This or more, as a number without a sign.
    AtLeast(u64),
}

impl Rule {
    /// Any use of a system call.
    pub fn syscall(syscall: i64, why: &'static str) -> Rule {
        Rule {
            syscall,
            arguments: Vec::new(),
            why,
        }
    }

    /// Only if this argument, counted from 0, is so.
    #[must_use]
    pub fn arg(mut self, index: u8, arg: Arg) -> Rule {
        self.arguments.push((index, arg));
        self
    }
}

/// Compiles rules into a filter that allows them and kills for anything else.
pub fn allow_only(rules: &[Rule]) -> Result<BpfProgram, MechanismError> {
    compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// Compiles rules into a filter that answers them with EPERM and allows anything else.
pub fn refuse(rules: &[Rule]) -> Result<BpfProgram, MechanismError> {
    compile(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
    )
}

fn compile(
    rules: &[Rule],
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, MechanismError> {
    let failed = |error: seccompiler::BackendError| {
        MechanismError::new("compile the system call filter", io::Error::other(error))
    };
    let mut by_syscall: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut unconditional = Vec::new();
    for rule in rules {
        let conditions: Result<Vec<_>, _> = rule
            .arguments
            .iter()
            .map(|(index, arg)| condition(*index, *arg))
            .collect();
        let conditions = conditions.map_err(failed)?;
        if conditions.is_empty() {
            unconditional.push(rule.syscall);
        } else {
            let alternatives = by_syscall.entry(rule.syscall).or_default();
            alternatives.push(SeccompRule::new(conditions).map_err(failed)?);
        }
    }
    // An empty list of alternatives means any use, and makes the others of its call needless.
    by_syscall.extend(
        unconditional
            .into_iter()
            .map(|syscall| (syscall, Vec::new())),
    );
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(failed)?;
    let filter = SeccompFilter::new(by_syscall, otherwise, matched, arch);
    filter.and_then(BpfProgram::try_from).map_err(failed)
}

fn condition(index: u8, arg: Arg) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (operator, value) = match arg {
        Arg::Equals(value) => (SeccompCmpOp::Eq, value),
        Arg::Differs(value) => (SeccompCmpOp::Ne, value),
        Arg::WithoutBits(bits) => (SeccompCmpOp::MaskedEq(bits), 0),
        Arg::HasBits(bits) => (SeccompCmpOp::MaskedEq(bits), bits),
        Arg::Below(value) => (SeccompCmpOp::Lt, value),
        Arg::AtLeast(value) => (SeccompCmpOp::Ge, value),
    };
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}

/// A filter that is ready to be applied.
#[derive(Debug)]
pub struct Filter {
    /// In the order in which they are applied.
    programs: Vec<BpfProgram>,
    shown: String,
}

impl Filter {
    /// What is allowed, and what of that is refused; an empty list of refusals is none.
    pub fn new(rules: &[Rule], refused: &[Rule]) -> Result<Filter, MechanismError> {
        let mut programs = Vec::new();
        // The refusals first: the other filter does not allow that another one is added.
        if !refused.is_empty() {
            programs.push(refuse(refused)?);
        }
        programs.push(allow_only(rules)?);
        let shown = format!("{} calls by {} rules", count_calls(rules), rules.len());
        Ok(Filter { programs, shown })
    }

    /// Only what is refused; anything else is allowed.
    pub fn refusing(rules: &[Rule]) -> Result<Filter, MechanismError> {
        Ok(Filter {
            programs: vec![refuse(rules)?],
            shown: format!("all calls but {}", count_calls(rules)),
        })
    }

    /// Filters every thread of this process, and those that they start.
    pub fn apply_to_process(&self) -> Result<String, MechanismError> {
        self.apply(seccompiler::apply_filter_all_threads)
    }

    /// Filters the calling thread, and those that it starts.
    pub fn apply_to_thread(&self) -> Result<String, MechanismError> {
        self.apply(seccompiler::apply_filter)
    }

    fn apply(
        &self,
        apply: fn(BpfProgramRef<'_>) -> Result<(), seccompiler::Error>,
    ) -> Result<String, MechanismError> {
        for program in &self.programs {
            apply(program).map_err(|error| {
                MechanismError::new("apply the system call filter", io::Error::other(error))
            })?;
        }
        Ok(self.shown.clone())
    }
}

fn count_calls(rules: &[Rule]) -> usize {
    let mut calls: Vec<i64> = rules.iter().map(|rule| rule.syscall).collect();
    calls.sort_unstable();
    calls.dedup();
    calls.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_that_is_allowed_as_a_whole_stays_so_beside_a_narrower_rule() {
        let whole = Rule::syscall(libc::SYS_ioctl, "any");
        let narrow = Rule::syscall(libc::SYS_ioctl, "one").arg(1, Arg::Equals(1));
        let both = allow_only(&[whole.clone(), narrow.clone()]).unwrap();
        assert_eq!(both, allow_only(&[whole]).unwrap());
        assert_ne!(both, allow_only(&[narrow]).unwrap());
    }

    #[test]
    fn argument_that_no_system_call_has_is_an_error() {
        let rule = Rule::syscall(libc::SYS_ioctl, "seventh").arg(6, Arg::Equals(1));
        allow_only(&[rule]).unwrap_err();
    }
}
