//! A seccomp profile compiled to classic BPF, as a decision tree over the system call's number.
//!
//! ```text
//! architecture ─┬─ x86_64 ─┬─ number < 0x40000000 ─ binary search over ranges ─ rules of a call
//!               │          └─ x32 (if named)      ─ …
//!               ├─ i386 (if named)                ─ …
//!               └─ any other: the process is killed
//! ```
//! Of a call's rules the first whose conditions hold decides; calls newer than every call that the
//! profile names get ENOSYS instead of the default error, so that programs fall back.

mod arguments;
pub(crate) mod kept;
mod table;

use crate::spec::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use table::Column;

/// A filter for the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// Eight bytes an instruction, as the kernel lays `sock_filter` out.
    pub(crate) program: Vec<u64>,
    /// Of seccomp(2).
    pub(crate) flags: u64,
}

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
/// Set in the numbers of x32, which has x86_64's architecture.
const X32_BIT: u32 = 0x4000_0000;

/// The flag that makes a listener.
const NEW_LISTENER: u64 = 8;
/// With a listener: only a deadly signal ends a call that is being answered.
const WAIT_KILLABLE: u64 = 32;

impl Filter {
    /// Whether calls are put before an agent, so that installing gives a listener.
    pub(crate) fn asks(&self) -> bool {
        self.flags & NEW_LISTENER != 0
    }
}

/// The kernel takes no longer programs.
const MAX_INSTRUCTIONS: usize = 4096;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_NOT_BELOW: u16 = 0x35;
const JUMP_ABOVE: u16 = 0x25;
const AND: u16 = 0x54;

/// Where the kernel keeps the number and the architecture in what the filter sees.
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;

fn op(code: u16, if_true: u8, if_false: u8, value: u32) -> u64 {
    u64::from(code) | u64::from(if_true) << 16 | u64::from(if_false) << 24 | u64::from(value) << 32
}

/// One rule of a call: what it gives when all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    conditions: Vec<LinuxSeccompArg>,
    result: u32,
}

/// What happens from a number on, up to the next range.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    from: u32,
    rules: Vec<Rule>,
    otherwise: u32,
}

/// Compiles; errors name the field.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Filter, Error> {
    let default = result(
        profile.default_action(),
        profile.default_errno_ret(),
        "linux.seccomp",
        "defaultErrnoRet",
    )?;
    let flags = flags(profile, asks(profile)?);
    let named = profile.architectures().as_deref().unwrap_or(&[]);
    let mut program = vec![op(LOAD, 0, 0, AT_ARCHITECTURE)];
    if cfg!(target_arch = "x86_64") {
        let mut native = native_x86_64(profile, default, named)?;
        jump_unless_equal(&mut program, AUDIT_X86_64, native.len())?;
        program.append(&mut native);
        if named.contains(&Arch::ScmpArchX86) {
            let mut tree = tree_of(profile, Column::I386, default)?;
            tree.insert(0, op(LOAD, 0, 0, AT_NUMBER));
            jump_unless_equal(&mut program, AUDIT_I386, tree.len())?;
            program.append(&mut tree);
        }
    } else if cfg!(target_arch = "aarch64") {
        let mut tree = tree_of(profile, Column::Aarch64, default)?;
        tree.insert(0, op(LOAD, 0, 0, AT_NUMBER));
        jump_unless_equal(&mut program, AUDIT_AARCH64, tree.len())?;
        program.append(&mut tree);
    } else {
        let what = format!("linux.seccomp on {}", std::env::consts::ARCH);
        return Err(Error::Unsupported { what });
    }
    program.push(op(RETURN, 0, 0, KILL_PROCESS));
    if program.len() > MAX_INSTRUCTIONS {
        let reason = format!("needs {} instructions, over {MAX_INSTRUCTIONS}", program.len());
        return Err(Error::Spec { field: "linux.seccomp".to_owned(), reason });
    }
    Ok(Filter { program, flags })
}

fn native_x86_64(profile: &LinuxSeccomp, default: u32, named: &[Arch]) -> Result<Vec<u64>, Error> {
    let mut tree = tree_of(profile, Column::X86_64, default)?;
    let mut x32 = if named.contains(&Arch::ScmpArchX32) {
        tree_of(profile, Column::X32, default)?
    } else {
        vec![op(RETURN, 0, 0, KILL_PROCESS)]
    };
    let mut code = vec![
        op(LOAD, 0, 0, AT_NUMBER),
        // -1 is what a tracer leaves of a call that it cancelled.
        op(JUMP_EQUAL, 0, 1, u32::MAX),
        op(RETURN, 0, 0, default),
        op(JUMP_NOT_BELOW, 0, 1, X32_BIT),
        op(JUMP, 0, 0, tree.len() as u32),
    ];
    code.append(&mut tree);
    code.append(&mut x32);
    Ok(code)
}

/// Skips the next `length` instructions unless the accumulator is `value`.
fn jump_unless_equal(program: &mut Vec<u64>, value: u32, length: usize) -> Result<(), Error> {
    let length = u32::try_from(length).map_err(|_| Error::Spec {
        field: "linux.seccomp".to_owned(),
        reason: "is too long".to_owned(),
    })?;
    program.extend([op(JUMP_EQUAL, 1, 0, value), op(JUMP, 0, 0, length)]);
    Ok(())
}

/// Whether an agent is asked about some calls; and if so, that it can be.
fn asks(profile: &LinuxSeccomp) -> Result<bool, Error> {
    let refuse = |field: &str, reason: &str| {
        Err(Error::Spec { field: format!("linux.seccomp.{field}"), reason: reason.to_owned() })
    };
    let has_agent = profile.listener_path().as_ref().is_some_and(|p| !p.as_os_str().is_empty());
    if profile.listener_metadata().is_some() && !has_agent {
        return refuse("listenerMetadata", "is only for a listenerPath");
    }
    let notify = LinuxSeccompAction::ScmpActNotify;
    let entries = profile.syscalls().as_deref().unwrap_or(&[]);
    if profile.default_action() != notify && !entries.iter().any(|one| one.action() == notify) {
        return Ok(false);
    }
    if !has_agent {
        return refuse("listenerPath", "is needed for SCMP_ACT_NOTIFY");
    }
    // The process passes its listener on when the filter is in force already.
    let passes = |action| {
        matches!(action, LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog)
    };
    let named = |one: &&LinuxSyscall| one.names().iter().any(|name| name == "sendmsg");
    let allowed = match entries.iter().find(named) {
        Some(one) => passes(one.action()) && one.args().as_ref().is_none_or(Vec::is_empty),
        None => passes(profile.default_action()),
    };
    match allowed {
        true => Ok(true),
        false => refuse(
            "syscalls",
            "with SCMP_ACT_NOTIFY sendmsg must be allowed: by it the runtime passes the listener on",
        ),
    }
}

/// The flags of a profile in the kernel's numbers, for the log.
pub(crate) fn asked_flags(profile: &LinuxSeccomp) -> u64 {
    flags(profile, false)
}

fn flags(profile: &LinuxSeccomp, asks: bool) -> u64 {
    let start = if asks { NEW_LISTENER } else { 0 };
    // With no word of flags, as runc has it: kernels before 5.16 would slow the process down.
    let Some(all) = profile.flags() else { return start | 4 };
    all.iter().fold(start, |bits, flag| {
        bits | match flag {
            // The process has one thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
            // Only means something with a listener.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if asks => WAIT_KILLABLE,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        }
    })
}

fn result(
    action: LinuxSeccompAction,
    errno: Option<u32>,
    at: &str,
    field: &str,
) -> Result<u32, Error> {
    let refuse = |reason: String| Err(Error::Spec { field: format!("{at}.{field}"), reason });
    let takes_number =
        matches!(action, LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace);
    let number = match errno {
        Some(_) if !takes_number => return refuse(format!("{action} has no error number")),
        Some(number) if number > 0xffff => return refuse(format!("{number} is no error number")),
        Some(number) => number,
        None => EPERM,
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | number,
        LinuxSeccompAction::ScmpActTrace => TRACE | number,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
    })
}

fn tree_of(profile: &LinuxSeccomp, column: Column, default: u32) -> Result<Vec<u64>, Error> {
    Ok(search(&ranges(profile, column, default)?))
}

/// The whole number line, cut where what happens changes.
fn ranges(profile: &LinuxSeccomp, column: Column, default: u32) -> Result<Vec<Range>, Error> {
    let mut calls: std::collections::BTreeMap<u32, Range> = std::collections::BTreeMap::new();
    for (index, entry) in profile.syscalls().iter().flatten().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let given = result(entry.action(), entry.errno_ret(), &field, "errnoRet")?;
        if entry.names().is_empty() {
            let reason = "names no system call".to_owned();
            return Err(Error::Spec { field: format!("{field}.names"), reason });
        }
        for (at, name) in entry.names().iter().enumerate() {
            let numbers = table::find(name).ok_or_else(|| Error::Spec {
                field: format!("{field}.names[{at}]"),
                reason: format!("{name:?} is no system call"),
            })?;
            let Some(number) = numbers.of(column) else { continue };
            let call = calls.entry(number).or_insert_with(|| Range {
                from: number,
                rules: Vec::new(),
                otherwise: default,
            });
            let conditions = entry.args().clone().unwrap_or_default();
            if let Some(bad) = conditions.iter().find(|c| c.index() > 5) {
                let reason = format!("there is no argument {}", bad.index());
                return Err(Error::Spec { field: format!("{field}.args"), reason });
            }
            call.rules.extend(alternatives(conditions, given));
        }
    }
    let newest = calls.keys().next_back().copied();
    let mut all = vec![Range { from: 0, rules: Vec::new(), otherwise: default }];
    let mut push = |range: Range| match all.last_mut() {
        Some(last) if last.from == range.from => *last = range,
        Some(last) if last.rules == range.rules && last.otherwise == range.otherwise => {}
        _ => all.push(range),
    };
    for call in calls.into_values().map(simplify) {
        let next = call.from + 1;
        push(call);
        push(Range { from: next, rules: Vec::new(), otherwise: default });
    }
    if let Some(newest) = newest
        && default == ERRNO | EPERM
    {
        push(Range { from: newest + 1, rules: Vec::new(), otherwise: ERRNO | ENOSYS });
        if let Some(last) = all.last_mut()
            && last.from == newest + 1
        {
            last.otherwise = ERRNO | ENOSYS;
        }
    }
    Ok(merge(all))
}

/// Several conditions about one argument in one rule mean any of them, as libseccomp's callers have
/// it; conditions about different arguments mean all.
fn alternatives(conditions: Vec<LinuxSeccompArg>, result: u32) -> Vec<Rule> {
    let repeated = conditions
        .iter()
        .enumerate()
        .any(|(at, one)| conditions[..at].iter().any(|other| other.index() == one.index()));
    if repeated {
        return conditions.into_iter().map(|one| Rule { conditions: vec![one], result }).collect();
    }
    vec![Rule { conditions, result }]
}

/// What follows a rule without conditions is never reached.
fn simplify(mut call: Range) -> Range {
    if let Some(at) = call.rules.iter().position(|rule| rule.conditions.is_empty()) {
        call.otherwise = call.rules[at].result;
        call.rules.truncate(at);
    }
    while call.rules.last().is_some_and(|rule| rule.result == call.otherwise) {
        call.rules.pop();
    }
    call
}

fn merge(all: Vec<Range>) -> Vec<Range> {
    let mut merged: Vec<Range> = Vec::with_capacity(all.len());
    for range in all {
        match merged.last() {
            Some(last) if last.rules == range.rules && last.otherwise == range.otherwise => {}
            _ => merged.push(range),
        }
    }
    merged
}

/// A binary search; the number is in the accumulator.
fn search(ranges: &[Range]) -> Vec<u64> {
    if let [only] = ranges {
        return leaf(only);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (mut low_code, mut high_code) = (search(low), search(high));
    let middle = high[0].from;
    let mut code = match u8::try_from(low_code.len()) {
        Ok(length) => vec![op(JUMP_NOT_BELOW, length, 0, middle)],
        Err(_) => {
            vec![op(JUMP_NOT_BELOW, 0, 1, middle), op(JUMP, 0, 0, low_code.len() as u32)]
        }
    };
    code.append(&mut low_code);
    code.append(&mut high_code);
    code
}

fn leaf(range: &Range) -> Vec<u64> {
    let mut code = Vec::new();
    for rule in &range.rules {
        code.extend(arguments::rule(&rule.conditions, rule.result));
    }
    code.push(op(RETURN, 0, 0, range.otherwise));
    code
}

#[cfg(test)]
mod tests;
