//! What release programs do before the C library starts: run anew from where nobody can write (see
//! [`super::sealed`]).
//!
//! Why so early: starting the C library is most of what a second start of the same program costs
//! (it asks the processor about itself in dozens of `cpuid`s, each of which a virtual machine pays
//! for with a trip to its host: 0.6 ms where this was measured). So the first start stops here,
//! and only the second goes on. Where this does not work out, nothing has happened, and
//! [`super::sealed::run_sealed`] does it later.
//!
//! The linker makes `wharf_entry` the program's first instruction (see `build.rs`). There is no
//! heap, no thread-local storage, and nothing of the C library may be called, not even by the
//! compiler: so bytes are read by volatile loads, which no loop of which becomes `strlen`.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::ffi::{CStr, c_char};

/// The commands that lead a process of ours into a container, of all our programs.
static COMMANDS: [&[u8]; 5] = [b"run", b"create", b"exec", b"start", b"restore"];

const STATFS: usize = 137;
const CLOSE: usize = 3;
const EXECVEAT: usize = 322;
const OPEN_TREE: usize = 428;
const MOUNT_SETATTR: usize = 442;

const AT_FDCWD: usize = -100isize as usize;
const AT_EMPTY_PATH: usize = 0x1000;
const CLONE_AND_CLOSE_ON_EXEC: usize = 1 | 0o2_000_000;
const READ_ONLY: u64 = 1;

const OWN: &CStr = c"/proc/self/exe";

core::arch::global_asm!(
    ".globl wharf_entry",
    ".type wharf_entry, @function",
    "wharf_entry:",
    // The stack has argc, argv and the environment, and is aligned; rdx is for _start.
    "mov rdi, rsp",
    "push rdx",
    "sub rsp, 8",
    "call {early}",
    "add rsp, 8",
    "pop rdx",
    "xor ebp, ebp",
    "jmp _start",
    early = sym early,
);

fn call(number: usize, args: [usize; 5]) -> isize {
    let result;
    // SAFETY: each call below gives pointers to what it wants and what lives through it; the kernel
    // changes the three registers that are named, and what the pointers of `args` say.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// # Safety
/// `text` is a C string.
unsafe fn is(text: *const u8, word: &[u8]) -> bool {
    let mut at = 0;
    // SAFETY: no byte is read beyond the first that differs, so none beyond the NUL.
    unsafe {
        while at < word.len() {
            if text.add(at).read_volatile() != word[at] {
                return false;
            }
            at += 1;
        }
        text.add(at).read_volatile() == 0
    }
}

/// # Safety
/// `stack` is what the kernel hands a new program: the count of its arguments, they themselves, a
/// null, and the environment, with a null.
unsafe extern "C" fn early(stack: *const usize) {
    // SAFETY: as the caller says; every argument is a C string.
    let (count, argv, envp, wanted) = unsafe {
        let count = *stack;
        let argv = stack.add(1);
        let mut wanted = false;
        let mut at = 1;
        while at < count {
            let text = *argv.add(at) as *const u8;
            let mut word = 0;
            while word < COMMANDS.len() {
                wanted |= is(text, COMMANDS[word]);
                word += 1;
            }
            at += 1;
        }
        (count, argv, argv.add(count + 1), wanted)
    };
    if !wanted || count == 0 {
        return;
    }
    let own = OWN.as_ptr() as usize;
    // struct statfs is 120 bytes; the flags are the eleventh number.
    let mut facts = [0u64; 16];
    if call(STATFS, [own, facts.as_mut_ptr() as usize, 0, 0, 0]) < 0 || facts[10] & 1 != 0 {
        return;
    }
    let tree = call(OPEN_TREE, [AT_FDCWD, own, CLONE_AND_CLOSE_ON_EXEC, 0, 0]);
    if tree < 0 {
        return;
    }
    let (tree, empty) = (tree as usize, c"".as_ptr() as *const c_char as usize);
    let attributes = [READ_ONLY, 0, 0, 0];
    let attributes = (attributes.as_ptr() as usize, size_of_val(&attributes));
    if call(MOUNT_SETATTR, [tree, empty, AT_EMPTY_PATH, attributes.0, attributes.1]) == 0 {
        // Comes back only if it fails.
        call(EXECVEAT, [tree, empty, argv as usize, envp as usize, AT_EMPTY_PATH]);
    }
    call(CLOSE, [tree, 0, 0, 0, 0]);
}
