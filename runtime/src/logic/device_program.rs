//! Device rules as an eBPF program for cgroup v2.
//!
//! The kernel calls it with `{access << 16 | type, major, minor}`; 1 allows, 0 forbids. Rules are
//! tested from the last to the first, and the first that fits decides.

use super::devices::Rule;

const LOAD_WORD: u8 = 0x61;
const MOV_REG: u8 = 0xbf;
const MOV_IMM: u8 = 0xb7;
const AND_IMM: u8 = 0x57;
const SHIFT_RIGHT_IMM: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// One instruction as the kernel lays it out.
fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    u64::from(code)
        | u64::from(to | from << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(value as u32) << 32
}

/// The program; `None` when there are no rules and nothing is to be forbidden.
pub(crate) fn program(rules: &[Rule]) -> Option<Vec<u64>> {
    if rules.is_empty() {
        return None;
    }
    let mut code = vec![
        op(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        op(MOV_REG, ACCESS, TYPE, 0, 0),
        op(SHIFT_RIGHT_IMM, ACCESS, 0, 0, 16),
        op(AND_IMM, TYPE, 0, 0, 0xffff),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        code.extend(block(rule));
    }
    code.extend([op(MOV_IMM, RESULT, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
    Some(code)
}

fn block(rule: &Rule) -> Vec<u64> {
    // Each test jumps over the rest of the block; how far is known when the block is.
    let mut tests: Vec<(u8, u8, i32)> = Vec::new();
    if let Some(kind) = rule.kind {
        tests.push((JUMP_IF_NOT_EQUAL, TYPE, if kind == b'b' { 1 } else { 2 }));
    }
    if let Some(major) = rule.major {
        tests.push((JUMP_IF_NOT_EQUAL, MAJOR, major as i32));
    }
    if let Some(minor) = rule.minor {
        tests.push((JUMP_IF_NOT_EQUAL, MINOR, minor as i32));
    }
    // What is allowed must cover all that is asked; what is forbidden, a part of it.
    let access = if rule.allow {
        [op(AND_IMM, RESULT, 0, 0, !(rule.access as i32)), op(JUMP_IF_NOT_EQUAL, RESULT, 0, 2, 0)]
    } else {
        [op(AND_IMM, RESULT, 0, 0, rule.access as i32), op(JUMP_IF_EQUAL, RESULT, 0, 2, 0)]
    };
    let length = tests.len() + 5;
    let mut code: Vec<u64> = tests
        .iter()
        .enumerate()
        .map(|(at, (jump, register, value))| {
            op(*jump, *register, 0, (length - at - 1) as i16, *value)
        })
        .collect();
    code.push(op(MOV_REG, RESULT, ACCESS, 0, 0));
    code.extend(access);
    code.extend([op(MOV_IMM, RESULT, 0, 0, i32::from(rule.allow)), op(EXIT, 0, 0, 0, 0)]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::devices::uses;

    /// Just enough of the machine to run what `program` writes.
    fn run(code: &[u64], access: u32, kind: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut r = [0u64; 11];
        let mut at = 0usize;
        loop {
            let i = code[at];
            let (c, to, from) = (i as u8, (i >> 8 & 15) as usize, (i >> 12 & 15) as usize);
            let (off, imm) = ((i >> 16) as u16 as i16, (i >> 32) as u32 as i32 as i64 as u64);
            let mut jump = 0;
            match c {
                LOAD_WORD => r[to] = u64::from(context[off as usize / 4]),
                MOV_REG => r[to] = r[from],
                MOV_IMM => r[to] = imm,
                AND_IMM => r[to] &= imm,
                SHIFT_RIGHT_IMM => r[to] >>= imm,
                JUMP_IF_EQUAL if r[to] == imm => jump = off,
                JUMP_IF_NOT_EQUAL if r[to] != imm => jump = off,
                JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL => {}
                EXIT => return r[0] == 1,
                other => panic!("{other:#x}"),
            }
            at = (at as i64 + 1 + i64::from(jump)) as usize;
        }
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let any = Rule { allow: false, kind: None, major: None, minor: None, access: uses::ALL };
        let null = Rule {
            allow: true,
            kind: Some(b'c'),
            major: Some(1),
            minor: Some(3),
            access: uses::READ | uses::WRITE,
        };
        let sda =
            Rule { allow: true, kind: Some(b'b'), major: Some(8), minor: None, access: uses::ALL };
        let no_write = Rule {
            allow: false,
            kind: Some(b'b'),
            major: Some(8),
            minor: Some(1),
            access: uses::WRITE,
        };
        let code = program(&[any, null, sda, no_write]).expect("rules");
        let (r, w, m) = (uses::READ, uses::WRITE, uses::MKNOD);
        assert!(run(&code, r | w, 2, 1, 3));
        assert!(!run(&code, m, 2, 1, 3));
        assert!(!run(&code, r, 2, 1, 5));
        assert!(!run(&code, r, 1, 1, 3));
        assert!(run(&code, r | w, 1, 8, 2));
        assert!(run(&code, r, 1, 8, 1));
        assert!(!run(&code, r | w, 1, 8, 1));
        assert!(program(&[]).is_none());
    }
}
