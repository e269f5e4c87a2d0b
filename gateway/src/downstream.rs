//! The clients' side: where lines come from and answers go to.

pub(crate) mod http;
pub(crate) mod stdio;
