//! Rules, and the BPF that they become.

use super::names;

/// What a rule answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// This error; 0 is a lie.
    Errno(u16),
    /// The kernel's own.
    Count,
}

/// One condition: the low 32 bits of an argument, masked.
#[derive(Debug, Clone, Copy)]
struct Condition {
    argument: u32,
    mask: u32,
    value: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// As it was written.
    pub(super) text: String,
    number: u32,
    conditions: Vec<Condition>,
    /// Only this one of the calls that match, counted from 1.
    pub(super) only: Option<u64>,
    pub(super) answer: Answer,
}

impl Rule {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{what} in the rule `{text}`");
        let (calls, answer) = text.rsplit_once(':').ok_or_else(|| wrong("no answer"))?;
        let (calls, only) = match calls.split_once('#') {
            Some((calls, only)) => (calls, Some(only.parse().map_err(|_not_a_number| wrong("no number"))?)),
            None => (calls, None),
        };
        let mut parts = calls.split(',');
        let name = parts.next().unwrap_or_default();
        let number = names::number(name).ok_or_else(|| wrong("an unknown call"))?;
        let conditions = parts
            .map(|part| condition(part).ok_or_else(|| wrong("no condition")))
            .collect::<Result<_, _>>()?;
        let answer = match answer {
            "count" => Answer::Count,
            "0" => Answer::Errno(0),
            name => Answer::Errno(names::errno(name).ok_or_else(|| wrong("an unknown error"))?),
        };
        Ok(Self { text: text.to_owned(), number, conditions, only, answer })
    }

    /// Whether the shim has to be asked.
    pub(super) fn is_counted(&self) -> bool {
        self.only.is_some() || self.answer == Answer::Count
    }

    /// Whether a call of this number with these arguments is meant.
    pub(super) fn matches(&self, number: u32, arguments: &[u64]) -> bool {
        let holds = |condition: &Condition| {
            let argument = usize::try_from(condition.argument).ok().and_then(|index| arguments.get(index));
            let low = argument
                .map(|argument| argument & u64::from(u32::MAX))
                .and_then(|low| u32::try_from(low).ok());
            low.is_some_and(|low| low & condition.mask == condition.value)
        };
        self.number == number && self.conditions.iter().all(holds)
    }
}

fn condition(text: &str) -> Option<Condition> {
    let (argument, value) = text.split_once('=')?;
    let (value, mask) = match value.split_once('/') {
        Some((value, mask)) => (number(value)?, number(mask)?),
        None => (number(value)?, u32::MAX),
    };
    let argument = argument.parse().ok().filter(|argument| *argument < 6)?;
    Some(Condition { argument, mask, value })
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `linux/bpf_common.h`, `linux/seccomp.h`.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;

/// Eight bytes an instruction. Calls are told apart by number alone: what runs below the shim makes native calls only.
pub(super) fn compile(rules: &[Rule]) -> Vec<u8> {
    let mut program = Vec::new();
    for rule in rules {
        let mut block = Vec::new();
        for condition in &rule.conditions {
            let offset = condition.argument.saturating_mul(8).saturating_add(16);
            block.push((LOAD, 0, 0, offset));
            block.push((AND, 0, 0, condition.mask));
            block.push((JUMP_IF_EQUAL, 0, 1, condition.value));
        }
        let answer = match rule.answer {
            Answer::Errno(errno) if !rule.is_counted() => ERRNO | u32::from(errno),
            Answer::Errno(_) | Answer::Count => USER_NOTIF,
        };
        block.push((RETURN, 0, 0, answer));
        program.push((LOAD, 0, 0, 0));
        let skip = u8::try_from(block.len()).unwrap_or(u8::MAX);
        program.push((JUMP_IF_EQUAL, 0, skip, rule.number));
        // A condition that does not hold skips the rest of the block.
        let length = block.len();
        for (index, (code, jt, jf, k)) in block.into_iter().enumerate() {
            let rest = u8::try_from(length.saturating_sub(index).saturating_sub(1)).unwrap_or(u8::MAX);
            program.push((code, jt, if jf == 0 { 0 } else { rest }, k));
        }
    }
    program.push((RETURN, 0, 0, ALLOW));
    program.into_iter().flat_map(|(code, jt, jf, k)| instruction(code, jt, jf, k)).collect()
}

fn instruction(code: u16, if_true: u8, if_false: u8, value: u32) -> [u8; 8] {
    let ([c0, c1], [k0, k1, k2, k3]) = (code.to_ne_bytes(), value.to_ne_bytes());
    [c0, c1, if_true, if_false, k0, k1, k2, k3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_says_which_calls_it_means() {
        let rule = Rule::parse("prctl,0=38:EPERM").unwrap();
        assert!(!rule.is_counted());
        let number = names::number("prctl").unwrap();
        assert!(rule.matches(number, &[38, 0, 0, 0, 0, 0]));
        assert!(!rule.matches(number, &[4, 0, 0, 0, 0, 0]));
        let rule = Rule::parse("mount,3=0x1000/0x1000#2:EIO").unwrap();
        assert_eq!(rule.only, Some(2));
        assert!(rule.matches(names::number("mount").unwrap(), &[0, 0, 0, 0x1001, 0, 0]));
        for wrong in ["mount", "no_such_call:EPERM", "mount:EWHAT", "mount,9=1:EPERM", "mount#x:EPERM"] {
            assert!(Rule::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn programs_have_the_length_that_their_jumps_assume() {
        let rules: Vec<Rule> =
            ["mount:EPERM", "prctl,0=38,1=1:0"].map(|text| Rule::parse(text).unwrap()).into();
        // load, jump, return; load, jump, twice three and return; the last return.
        assert_eq!(compile(&rules).len(), (3 + 9 + 1) * 8);
    }
}
