//! Conditions on a call's arguments: 64 bits each, of which BPF sees 32 at a time.

use crate::spec::{LinuxSeccompArg, LinuxSeccompOperator};

use super::{AND, JUMP_ABOVE, JUMP_EQUAL, JUMP_NOT_BELOW, LOAD, RETURN, op};

/// Where a test leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// The next instruction.
    Next,
    /// The condition holds.
    Holds,
    /// It does not.
    Fails,
}

/// An instruction whose jumps are not yet numbers.
struct Draft {
    code: u16,
    value: u32,
    if_true: To,
    if_false: To,
}

/// `RETURN result` if all conditions hold, else on to what follows. A rule has at most six
/// conditions of at most five instructions, so every jump fits into its eight bits.
pub(super) fn rule(conditions: &[LinuxSeccompArg], result: u32) -> Vec<u64> {
    let drafts: Vec<Vec<Draft>> = conditions.iter().map(condition).collect();
    let length: usize = drafts.iter().map(Vec::len).sum();
    let mut code = Vec::with_capacity(length + 1);
    let mut end_of_condition = 0;
    for draft in drafts {
        end_of_condition += draft.len();
        for one in draft {
            let here = code.len() + 1;
            let distance = |to: To| match to {
                To::Next => 0,
                To::Holds => (end_of_condition - here) as u8,
                // Over the return at the end.
                To::Fails => (length + 1 - here) as u8,
            };
            code.push(op(one.code, distance(one.if_true), distance(one.if_false), one.value));
        }
    }
    code.push(op(RETURN, 0, 0, result));
    code
}

fn plain(code: u16, value: u32) -> Draft {
    Draft { code, value, if_true: To::Next, if_false: To::Next }
}

fn test(code: u16, value: u32, if_true: To, if_false: To) -> Draft {
    Draft { code, value, if_true, if_false }
}

fn condition(arg: &LinuxSeccompArg) -> Vec<Draft> {
    use To::{Fails, Holds, Next};
    // After number, architecture and the instruction's address; the low half comes first.
    let at = 16 + 8 * arg.index() as u32;
    let (low_at, high_at) =
        if cfg!(target_endian = "little") { (at, at + 4) } else { (at + 4, at) };
    let halves = |n: u64| ((n >> 32) as u32, n as u32);
    let (high, low) = halves(arg.value());
    let (load_high, load_low) = (plain(LOAD, high_at), plain(LOAD, low_at));
    // Greater and less are each other's opposite, and so are their ends.
    let order = |low_test: u16, above: To, below: To, low_true: To, low_false: To| {
        vec![
            plain(LOAD, high_at),
            test(JUMP_ABOVE, high, above, Next),
            test(JUMP_EQUAL, high, Next, below),
            plain(LOAD, low_at),
            test(low_test, low, low_true, low_false),
        ]
    };
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => vec![
            load_high,
            test(JUMP_EQUAL, high, Next, Fails),
            load_low,
            test(JUMP_EQUAL, low, Holds, Fails),
        ],
        LinuxSeccompOperator::ScmpCmpNe => vec![
            load_high,
            test(JUMP_EQUAL, high, Next, Holds),
            load_low,
            test(JUMP_EQUAL, low, Fails, Holds),
        ],
        LinuxSeccompOperator::ScmpCmpGt => order(JUMP_ABOVE, Holds, Fails, Holds, Fails),
        LinuxSeccompOperator::ScmpCmpGe => order(JUMP_NOT_BELOW, Holds, Fails, Holds, Fails),
        LinuxSeccompOperator::ScmpCmpLt => order(JUMP_NOT_BELOW, Fails, Holds, Fails, Holds),
        LinuxSeccompOperator::ScmpCmpLe => order(JUMP_ABOVE, Fails, Holds, Fails, Holds),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            // The value is the mask, the second value what must be left.
            let (want_high, want_low) = halves(arg.value_two().unwrap_or(0));
            vec![
                load_high,
                plain(AND, high),
                test(JUMP_EQUAL, want_high, Next, Fails),
                load_low,
                plain(AND, low),
                test(JUMP_EQUAL, want_low, Holds, Fails),
            ]
        }
    }
}
