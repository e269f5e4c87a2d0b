//! Guesses at what the author meant.

/// Longest word for which a guess is made: twice the longest key. The distance costs the product of both
/// lengths.
const LONGEST_WORD: usize = 32;

/// The candidate that a word is most likely a misspelling of, if any is close.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word = plain(word);
    let length = word.chars().count();
    if length > LONGEST_WORD {
        return None;
    }
    // A third of the letters wrong is still the same word; more is another one.
    let tolerance = length.div_ceil(3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|&(distance, _)| distance <= tolerance)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// `"did you mean …?"` for a word among candidates, or the list of them.
pub(crate) fn did_you_mean(word: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("known here: {}", list(candidates)),
    }
}

/// Names in backticks with commas.
pub(crate) fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Spelling without what languages disagree about: `idleTimeout` and `idle-timeout` are both `idle_timeout`.
fn plain(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses() {
        let keys = ["memory", "cpus", "pids", "open_files"];
        assert_eq!(nearest("memroy", keys), Some("memory"));
        assert_eq!(nearest("openFiles", keys), Some("open_files"));
        assert_eq!(nearest("cpu", keys), Some("cpus"));
        assert_eq!(nearest("network", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest(&"x".repeat(5000), keys), None);
        assert_eq!(did_you_mean("zzzz", &keys), "known here: `memory`, `cpus`, `pids`, `open_files`");
    }
}
