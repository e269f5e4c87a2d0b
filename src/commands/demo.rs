//! `palisade demo`: the main job on an embedded default.

use std::path::Path;

use super::Done;
use crate::cli::Demo;

pub(super) fn run(_options: &Demo, _store: Option<&Path>) -> Done {
    Ok(())
}
