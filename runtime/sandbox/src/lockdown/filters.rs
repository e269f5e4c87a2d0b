//! Step 7: the seccomp filters, the last layer.
//!
//! From here on only the calls of the baseline are left to this process itself: reading `/proc` back,
//! `fork` and `execve`.

use super::LockdownError;
use super::landlock::Walled;
use crate::seccomp::CompiledFilter;

/// The seccomp filters are installed.
#[derive(Debug)]
pub struct Filtered(());

/// Installs the filters in their order.
///
/// # Errors
/// When the kernel refuses one.
pub fn install(_walled: Walled, filters: &[CompiledFilter]) -> Result<Filtered, LockdownError> {
    for filter in filters {
        filter.install().map_err(|error| LockdownError::new("installing a seccomp filter", chain(&error)))?;
    }
    Ok(Filtered(()))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
