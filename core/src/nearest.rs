//! "Did you mean": the known name that is closest to a mistyped one.

/// The candidate most like `name`, if any is close enough to be a likely slip.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `", did you mean "x"?"`, or the whole list of what is known when nothing is close.
pub fn hint<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(close) = nearest(name, candidates.clone()) {
        return format!(", did you mean `{close}`?");
    }
    let known: Vec<&str> = candidates.into_iter().collect();
    if known.is_empty() { String::new() } else { format!("; known: {}", known.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_gets_the_list() {
        assert_eq!(nearest("flihgts", ["airports", "flights"]), Some("flights"));
        assert_eq!(hint("projektion", ["path", "projection"]), ", did you mean `projection`?");
        assert_eq!(hint("zzz", ["path", "url"]), "; known: path, url");
    }
}
