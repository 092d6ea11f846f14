//! Programs are run on a small machine that knows the instructions they have.

use super::*;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).expect("json")
}

fn run(filter: &Filter, arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = vec![number, arch, 0, 0];
    for arg in args {
        data.extend([arg as u32, (arg >> 32) as u32]);
    }
    let (mut at, mut a) = (0usize, 0u32);
    loop {
        let i = filter.program[at];
        let (code, t, f, k) = (i as u16, (i >> 16) as u8, (i >> 24) as u8, (i >> 32) as u32);
        at += 1;
        let jump = |yes: bool| usize::from(if yes { t } else { f });
        match code {
            LOAD => a = data[k as usize / 4],
            AND => a &= k,
            RETURN => return k,
            JUMP => at += k as usize,
            JUMP_EQUAL => at += jump(a == k),
            JUMP_NOT_BELOW => at += jump(a >= k),
            JUMP_ABOVE => at += jump(a > k),
            other => panic!("{other:#x}"),
        }
    }
}

const NONE: [u64; 6] = [0; 6];

#[cfg(target_arch = "x86_64")]
#[test]
fn names_numbers_and_architectures() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],
        "syscalls":[{"names":["read","write","openat","mseal","s390_sthyi"],"action":"SCMP_ACT_ALLOW"},
        {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#;
    let filter = compile(&profile(json)).expect("valid");
    let is = |number, want| assert_eq!(run(&filter, AUDIT_X86_64, number, NONE), want, "{number}");
    is(0, ALLOW);
    is(1, ALLOW);
    is(2, ERRNO | 1);
    is(257, ALLOW);
    is(258, ERRNO | 1);
    is(435, ERRNO | 38);
    is(462, ALLOW);
    // Newer than anything named: not there, rather than forbidden.
    is(463, ERRNO | 38);
    is(u32::MAX, ERRNO | 1);
    // x32 was not named.
    is(X32_BIT, KILL_PROCESS);
    assert_eq!(run(&filter, AUDIT_I386, 3, NONE), ALLOW);
    assert_eq!(run(&filter, AUDIT_I386, 0, NONE), ERRNO | 1);
    assert_eq!(run(&filter, AUDIT_AARCH64, 63, NONE), KILL_PROCESS);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_operator_on_both_halves() {
    let points = [0, 1, 7, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0007, 0x2_0000_0007, u64::MAX];
    type Holds = fn(u64, u64) -> bool;
    let operators: [(&str, Holds); 7] = [
        ("NE", |a, v| a != v),
        ("LT", |a, v| a < v),
        ("LE", |a, v| a <= v),
        ("EQ", |a, v| a == v),
        ("GE", |a, v| a >= v),
        ("GT", |a, v| a > v),
        ("MASKED_EQ", |a, v| a & v == 7),
    ];
    for (name, holds) in operators {
        for value in points {
            let json = format!(
                r#"{{"defaultAction":"SCMP_ACT_KILL","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{{"index":1,"value":3,"op":"SCMP_CMP_NE"}},
                {{"index":2,"value":{value},"valueTwo":7,"op":"SCMP_CMP_{name}"}}]}}]}}"#
            );
            let filter = compile(&profile(&json)).expect("valid");
            for arg in points {
                let want = if holds(arg, value) { ALLOW } else { KILL_THREAD };
                let got = run(&filter, AUDIT_X86_64, 0, [9, 9, arg, 9, 9, 9]);
                assert_eq!(got, want, "{arg:#x} {name} {value:#x}");
                assert_eq!(run(&filter, AUDIT_X86_64, 0, [9, 3, arg, 9, 9, 9]), KILL_THREAD);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_first_rule_that_holds_decides_and_one_argument_twice_means_either() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"},
            {"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
        {"names":["personality"],"action":"SCMP_ACT_TRAP"},
        {"names":["personality"],"action":"SCMP_ACT_LOG"}]}"#;
    let filter = compile(&profile(json)).expect("valid");
    let at = |value| run(&filter, AUDIT_X86_64, 135, [value, 0, 0, 0, 0, 0]);
    assert_eq!((at(0), at(8), at(9)), (ALLOW, ALLOW, TRAP));
}

#[test]
fn what_is_wrong_is_named() {
    let field = |json: &str| match compile(&profile(json)) {
        Err(Error::Spec { field, .. }) => field,
        Err(Error::Unsupported { what }) => what,
        other => panic!("{other:?}"),
    };
    let with = |entry: &str| {
        field(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{entry}]}}"#))
    };
    assert_eq!(
        with(r#"{"names":["read","raed"],"action":"SCMP_ACT_ERRNO"}"#),
        "linux.seccomp.syscalls[0].names[1]"
    );
    assert_eq!(
        with(r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":70000}"#),
        "linux.seccomp.syscalls[0].errnoRet"
    );
    assert_eq!(
        with(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","errnoRet":1}"#),
        "linux.seccomp.syscalls[0].errnoRet"
    );
    assert_eq!(with(r#"{"names":[],"action":"SCMP_ACT_LOG"}"#), "linux.seccomp.syscalls[0].names");
    assert_eq!(
        with(
            r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}"#
        ),
        "linux.seccomp.syscalls[0].args"
    );
    let notify = r#"{"names":["read"],"action":"SCMP_ACT_NOTIFY"}"#;
    assert_eq!(with(notify), "linux.seccomp.listenerPath");
    assert_eq!(
        field(r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x"}"#),
        "linux.seccomp.listenerMetadata"
    );
    for (default, more) in [
        ("SCMP_ACT_ERRNO", ""),
        ("SCMP_ACT_NOTIFY", ""),
        ("SCMP_ACT_ALLOW", r#",{"names":["sendmsg"],"action":"SCMP_ACT_TRAP"}"#),
    ] {
        let json = format!(
            r#"{{"defaultAction":"{default}","listenerPath":"/a","syscalls":[{notify}{more}]}}"#
        );
        assert_eq!(field(&json), "linux.seccomp.syscalls", "{json}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_tree_too_long_for_short_jumps_finds_its_way() {
    let entries: Vec<String> = (0..300)
        .step_by(2)
        .filter_map(|n| {
            let name = include_str!("syscalls.txt")
                .lines()
                .find(|line| line.split(' ').nth(1) == Some(&n.to_string()))?
                .split(' ')
                .next()?;
            Some(format!(
                r#"{{"names":["{name}"],"action":"SCMP_ACT_ERRNO","errnoRet":{}}}"#,
                n + 100
            ))
        })
        .collect();
    let json =
        format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, entries.join(","));
    let filter = compile(&profile(&json)).expect("valid");
    for n in (0..300).step_by(2) {
        assert_eq!(run(&filter, AUDIT_X86_64, n, NONE), ERRNO | (n + 100), "{n}");
        assert_eq!(run(&filter, AUDIT_X86_64, n + 1, NONE), ALLOW, "{n}");
    }
}
