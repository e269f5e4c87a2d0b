//! What every attacker of this project is made of: system calls without the standard library's words ([`raw`]), the
//! few steps that attempts share ([`steps`]), and what an attempt says about itself ([`report`]).
//!
//! The sample server uses it, and so does the probe program of the escape suite (`tests/probe`).

pub mod raw;
pub mod report;
pub mod steps;
