//! The kernel's side of a filter: classic BPF as `kernel/seccomp.c` accepts it, for the instructions that filters of ours
//! and of seccompiler have. Anything else panics, as the kernel would refuse it.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "positions in a test's own program; debug builds check them"
)]

use palisade_sys::seccomp::Instruction;

/// What a program answered, and in how many instructions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ran {
    pub(super) answer: u32,
    pub(super) steps: usize,
}

pub(super) fn run(program: &[Instruction], architecture: u32, number: u32, args: [u64; 6]) -> Ran {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(architecture.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    data.extend(args.iter().flat_map(|arg| arg.to_le_bytes()));
    let word = |offset: u32| {
        let offset = usize::try_from(offset).unwrap();
        assert_eq!(offset % 4, 0);
        u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap())
    };
    let (mut accumulator, mut at, mut steps) = (0_u32, 0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let choose = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => at += choose(accumulator == k),
            0x25 => at += choose(accumulator > k),
            0x35 => at += choose(accumulator >= k),
            0x06 => return Ran { answer: k, steps },
            _ => panic!("instruction {code:#x} is not known here"),
        }
    }
}
