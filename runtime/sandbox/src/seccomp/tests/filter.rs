//! The compiler by itself, with tables that no list has.

use super::compile::{Comparison, Half};
use super::*;

fn table(alternatives: Vec<Vec<Comparison>>) -> Table {
    Table {
        architecture: native(),
        calls: [
            (7, Decision::Arguments(alternatives, Answer::errno(1))),
            (8, Decision::Always(Answer::ALLOW)),
        ]
        .into(),
        otherwise: Answer::errno(38),
        hot: vec![],
    }
}

/// Few arguments, masks and values, so that they meet in all ways.
fn comparison() -> impl Strategy<Value = Comparison> {
    let mask = prop::sample::select(vec![u32::MAX, 0xff, 0xf0, 0x3, 0x8000_0001]);
    let half = prop::sample::select(vec![Half::Low, Half::Low, Half::High]);
    (0_u8..3, half, mask, prop::sample::select(vec![0, 1, 3, 0x10, 0xf1, 0x8000_0000]))
        .prop_map(|(index, half, mask, is)| Comparison { index, half, mask, is: is & mask })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the comparisons: allowed when all of one alternative hold.
    #[test]
    fn any_alternatives_are_decided_right(
        alternatives in prop::collection::vec(prop::collection::vec(comparison(), 1..4), 0..6),
        calls in prop::collection::vec(
            prop::array::uniform6(prop::sample::select(vec![0_u64, 1, 2, 3, 0x10, 0x13, 0xf1, 0x8000_0000, 0x1_0000_0003])),
            48,
        ),
    ) {
        let program = compile::filter(&table(alternatives.clone()));
        for args in calls {
            let holds = |comparison: &Comparison| {
                let arg = args[usize::from(comparison.index)];
                let half = if comparison.half == Half::Low { arg & 0xffff_ffff } else { arg >> 32 };
                half & u64::from(comparison.mask) == u64::from(comparison.is)
            };
            let allowed = alternatives.iter().any(|alternative| alternative.iter().all(holds));
            let answer = run(&program, native(), 7, args).answer;
            prop_assert_eq!(answer, if allowed { ALLOW } else { EPERM }, "{:x?} {:x?}", alternatives, args);
        }
    }

    /// Trees of comparisons stay right when their branches are further apart than a comparison can jump.
    #[test]
    fn far_jumps_arrive(
        values in prop::collection::btree_set(any::<u32>(), 200..600),
        probes in prop::collection::vec(any::<u32>(), 32),
    ) {
        let is = |index, mask, value: &u32| Comparison { index, half: Half::Low, mask, is: *value & mask };
        let alternatives =
            values.iter().map(|value| vec![is(0, u32::MAX, value), is(1, 0xff, value)]).collect();
        let program = compile::filter(&table(alternatives));
        prop_assert!(program.iter().any(|instruction| instruction.code == 0x05), "no far jump");
        for probe in values.iter().copied().chain(probes) {
            for second in [u64::from(probe), u64::from(probe) ^ 1] {
                let args = [u64::from(probe), second, 0, 0, 0, 0];
                let good = values.contains(&probe) && second & 0xff == u64::from(probe & 0xff);
                prop_assert_eq!(run(&program, native(), 7, args).answer, if good { ALLOW } else { EPERM });
            }
        }
        prop_assert_eq!(run(&program, native(), 8, [0; 6]).answer, ALLOW);
        prop_assert_eq!(run(&program, native(), 9, [0; 6]).answer, ENOSYS);
    }
}
