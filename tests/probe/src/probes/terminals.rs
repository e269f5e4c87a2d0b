//! Requests that would put words into somebody's terminal. Standard input is no terminal in any test, so the kernel
//! objects to that, but only to those whom the filter lets through to it.

use nix::errno::Errno;
use palisade_attack::raw::Call;

use super::{Row, numbers, row};

const NO_TERMINAL: &[Errno] = &[Errno::ENOTTY, Errno::EFAULT, Errno::EIO];

macro_rules! requests {
    ($($id:literal $what:literal $number:literal;)*) => {
        [$(row($id, $what, |_| numbers(Call::IOCTL, [0, $number, 0])).reached(NO_TERMINAL)),*]
    };
}

/// `asm-generic/ioctls.h`, `linux/tiocl.h`, `linux/kd.h`.
pub(super) const ROWS: [Row; 8] = requests![
    "tiocsti" "type into a terminal (TIOCSTI)" 0x5412;
    "tioclinux" "paste into a console (TIOCLINUX)" 0x541c;
    "tiocsctty" "take a terminal (TIOCSCTTY)" 0x540e;
    "tioccons" "take the console's output (TIOCCONS)" 0x541d;
    "tiocsetd" "set a line discipline (TIOCSETD)" 0x5423;
    "tcsets" "change a terminal's settings (TCSETS)" 0x5402;
    "kdskbent" "change the keyboard's map (KDSKBENT)" 0x4b47;
    "kdsetled" "set the keyboard's lights (KDSETLED)" 0x4b32;
];
