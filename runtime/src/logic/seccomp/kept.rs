//! A compiled profile as bytes, to be kept and found again by what it was compiled from.
//!
//! ```text
//! magic │ compiler │ length of key │ count of instructions │ flags │ key │ instructions │ sum
//! ```
//! The key is the profile itself, so that no two can be taken for each other. All of it is checked
//! before an instruction is believed: what is damaged is compiled anew.

use super::{
    AND, Filter, JUMP, JUMP_ABOVE, JUMP_EQUAL, JUMP_NOT_BELOW, LOAD, MAX_INSTRUCTIONS, RETURN,
};
use crate::spec::LinuxSeccomp;

const MAGIC: u64 = u64::from_le_bytes(*b"wharfsc\x01");
const HEAD_BYTES: usize = 40;
/// More than any profile of use has.
const MAX_KEY_BYTES: usize = 128 << 10;

/// Which compiler it was: another one's programs are not taken for ours.
const COMPILER: u64 = {
    let mut sum = sum_from(START, include_bytes!("mod.rs"));
    sum = sum_from(sum, include_bytes!("arguments.rs"));
    sum = sum_from(sum, include_bytes!("table.rs"));
    sum = sum_from(sum, include_bytes!("syscalls.txt"));
    sum_from(sum, std::env::consts::ARCH.as_bytes())
};

const START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: against damage, not against malice. Who can write here is the user himself.
const fn sum_from(mut sum: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        sum = (sum ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    sum
}

/// The same eight bytes at a time.
fn sum_of(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(START, |sum, part| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        let mixed = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    })
}

/// All that decides about the program, as bytes; `None`: too much to be kept.
pub(crate) fn key(profile: &LinuxSeccomp) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(8 << 10);
    let number = |key: &mut Vec<u8>, number: u64| key.extend(number.to_le_bytes());
    let maybe = |key: &mut Vec<u8>, value: Option<u64>| {
        key.push(u8::from(value.is_some()));
        key.extend(value.unwrap_or(0).to_le_bytes());
    };
    let text = |key: &mut Vec<u8>, text: &[u8]| {
        key.extend((text.len() as u32).to_le_bytes());
        key.extend(text);
    };
    number(&mut key, profile.default_action() as u64);
    maybe(&mut key, profile.default_errno_ret().map(u64::from));
    let architectures = profile.architectures().as_deref().unwrap_or(&[]);
    text(&mut key, &architectures.iter().map(|one| *one as u8).collect::<Vec<_>>());
    let flags = profile.flags().as_deref().unwrap_or(&[]);
    text(&mut key, &flags.iter().map(|one| *one as u8).collect::<Vec<_>>());
    // The agent's address is no part of the program, but whether it is there is checked.
    let agent = profile.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    key.push(u8::from(agent) | u8::from(profile.listener_metadata().is_some()) << 1);
    for entry in profile.syscalls().iter().flatten() {
        number(&mut key, entry.names().len() as u64);
        entry.names().iter().for_each(|name| text(&mut key, name.as_bytes()));
        number(&mut key, entry.action() as u64);
        maybe(&mut key, entry.errno_ret().map(u64::from));
        let conditions = entry.args().as_deref().unwrap_or(&[]);
        number(&mut key, conditions.len() as u64);
        for one in conditions {
            number(&mut key, one.index() as u64);
            number(&mut key, one.value());
            maybe(&mut key, one.value_two());
            number(&mut key, one.op() as u64);
        }
    }
    (key.len() <= MAX_KEY_BYTES).then_some(key)
}

/// Under which name it is kept. Two profiles may have one name: then one of them is kept.
pub(crate) fn name(key: &[u8]) -> String {
    format!("{:016x}", sum_of(key) ^ COMPILER)
}

/// The most that [`encode`] makes.
pub(crate) const MAX_BYTES: u64 = (HEAD_BYTES + MAX_KEY_BYTES + 8 * MAX_INSTRUCTIONS + 8) as u64;

/// The bytes to be kept.
pub(crate) fn encode(key: &[u8], filter: &Filter) -> Vec<u8> {
    let counts = [key.len() as u64, filter.program.len() as u64];
    let mut bytes = Vec::with_capacity(HEAD_BYTES + key.len() + 8 * filter.program.len() + 8);
    for word in [MAGIC, COMPILER, counts[0], counts[1], filter.flags] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(key);
    filter.program.iter().for_each(|instruction| bytes.extend(instruction.to_le_bytes()));
    bytes.extend(sum_of(&bytes).to_le_bytes());
    bytes
}

/// What was kept for that key; `None`: these bytes are not that, or not to be believed.
pub(crate) fn decode(bytes: &[u8], key: &[u8]) -> Option<Filter> {
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let count = usize::try_from(word(24)?).ok().filter(|count| *count <= MAX_INSTRUCTIONS)?;
    let fits = word(0)? == MAGIC
        && word(8)? == COMPILER
        && word(16)? == key.len() as u64
        && bytes.len() == HEAD_BYTES + key.len() + 8 * count + 8
        && &bytes[HEAD_BYTES..HEAD_BYTES + key.len()] == key;
    let end = bytes.len().checked_sub(8)?;
    if !fits || word(end)? != sum_of(&bytes[..end]) {
        return None;
    }
    let program: Vec<u64> = bytes[HEAD_BYTES + key.len()..end]
        .chunks_exact(8)
        .map(|part| u64::from_le_bytes(part.try_into().expect("eight bytes")))
        .collect();
    let filter = Filter { program, flags: word(32)? };
    filter.is_sound().then_some(filter)
}

impl Filter {
    /// What the kernel demands of a program, and what we make: it has our instructions only, reads
    /// words of what it is given, goes forward, stays inside, and ends in a return.
    pub(crate) fn is_sound(&self) -> bool {
        let length = self.program.len();
        let known_flags = 0x3f;
        let last = self.program.last().is_some_and(|last| *last as u16 == RETURN);
        let fits = |(at, instruction): (usize, &u64)| {
            let (code, value) = (*instruction as u16, (*instruction >> 32) as usize);
            let (if_true, if_false) = ((*instruction >> 16) as u8, (*instruction >> 24) as u8);
            let farthest = match code {
                RETURN => return true,
                LOAD => return value % 4 == 0 && value < 64,
                AND => 0,
                JUMP => value,
                JUMP_EQUAL | JUMP_NOT_BELOW | JUMP_ABOVE => usize::from(if_true.max(if_false)),
                _ => return false,
            };
            at + 1 + farthest < length
        };
        last && length <= MAX_INSTRUCTIONS
            && self.flags & !known_flags == 0
            && self.program.iter().enumerate().all(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::compile;
    use super::*;

    fn profile(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).expect("json")
    }

    const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],
        "syscalls":[{"names":["read","openat"],"action":"SCMP_ACT_ALLOW"},
        {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"}]}]}"#;

    #[test]
    fn what_was_kept_comes_back_and_nothing_else() {
        let one = profile(PROFILE);
        let (key, filter) = (key(&one).expect("small"), compile(&one).expect("valid"));
        let bytes = encode(&key, &filter);
        assert_eq!(decode(&bytes, &key), Some(filter));
        // Each byte counts.
        for at in 0..bytes.len() {
            for bit in [1, 0x80] {
                let mut other = bytes.clone();
                other[at] ^= bit;
                assert_eq!(decode(&other, &key), None, "byte {at}");
            }
        }
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length], &key), None);
        }
    }

    #[test]
    fn every_field_is_in_the_key() {
        let base = key(&profile(PROFILE)).expect("small");
        for (from, to) in [
            ("\"SCMP_ACT_ERRNO\"", "\"SCMP_ACT_ERRNO\",\"defaultErrnoRet\":1"),
            ("{\"defaultAction\":\"SCMP_ACT_ERRNO\"", "{\"defaultAction\":\"SCMP_ACT_KILL\""),
            ("[\"SCMP_ARCH_X86_64\"]", "[\"SCMP_ARCH_X86_64\",\"SCMP_ARCH_X86\"]"),
            ("\"syscalls\"", "\"flags\":[\"SECCOMP_FILTER_FLAG_LOG\"],\"syscalls\""),
            ("\"syscalls\"", "\"listenerPath\":\"/a\",\"syscalls\""),
            ("\"read\",\"openat\"", "\"openat\",\"read\""),
            ("\"read\",\"openat\"", "\"readopenat\""),
            (
                "\"read\",\"openat\"],\"action\":\"SCMP_ACT_ALLOW\"",
                "\"read\",\"openat\"],\"action\":\"SCMP_ACT_LOG\"",
            ),
            ("\"index\":0", "\"index\":1"),
            ("\"value\":40", "\"value\":41"),
            ("\"value\":40", "\"value\":40,\"valueTwo\":0"),
            ("SCMP_CMP_NE", "SCMP_CMP_EQ"),
        ] {
            assert!(PROFILE.contains(from), "{from}");
            let other = key(&profile(&PROFILE.replacen(from, to, 1))).expect("small");
            assert!(other != base, "{from} and {to} have one key");
        }
    }

    #[test]
    fn unsound_programs_are_not_taken() {
        let sound = |program: &[u64]| Filter { program: program.to_vec(), flags: 0 }.is_sound();
        let op = super::super::op;
        let end = op(RETURN, 0, 0, 0);
        assert!(sound(&[end]) && sound(&[op(LOAD, 0, 0, 60), op(JUMP_EQUAL, 1, 0, 7), end, end]));
        for bad in [
            vec![],
            vec![op(LOAD, 0, 0, 0)],
            vec![op(LOAD, 0, 0, 64), end],
            vec![op(LOAD, 0, 0, 2), end],
            vec![op(JUMP_EQUAL, 1, 0, 7), end],
            vec![op(JUMP_EQUAL, 0, 1, 7), end],
            vec![op(JUMP, 0, 0, 1), end],
            vec![op(JUMP, 0, 0, u32::MAX), end],
            vec![op(0x61, 0, 0, 0), end],
            vec![end; MAX_INSTRUCTIONS + 1],
        ] {
            assert!(!sound(&bad), "{bad:x?}");
        }
        assert!(!Filter { program: vec![end], flags: 64 }.is_sound());
    }
}
