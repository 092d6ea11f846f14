//! What a prune may take: by age and labels. Pure.

use std::collections::BTreeMap;

/// All of it must match; the default lets everything through.
#[derive(Clone, Debug, Default)]
pub struct PruneFilter {
    /// Made before this time, in nanoseconds since the epoch.
    pub until_unix_ns: Option<i64>,
    /// "key" or "key=value", all of them.
    pub labels: Vec<String>,
    /// None of these.
    pub labels_not: Vec<String>,
}

impl PruneFilter {
    /// Whether what has these labels and was made then may go.
    #[must_use]
    pub fn lets(&self, labels: &BTreeMap<String, String>, created_unix_ns: i64) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        };
        self.until_unix_ns.is_none_or(|until| created_unix_ns < until)
            && self.labels.iter().all(has)
            && !self.labels_not.iter().any(has)
    }
}

#[cfg(test)]
mod tests {
    use super::PruneFilter;

    #[test]
    fn all_must_match() {
        let labels = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())].into();
        let all = PruneFilter::default;
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        for (filter, lets) in [
            (all(), true),
            (PruneFilter { labels: list(&["a", "a=1"]), ..all() }, true),
            (PruneFilter { labels: list(&["a=2"]), ..all() }, false),
            (PruneFilter { labels_not: list(&["c"]), ..all() }, true),
            (PruneFilter { labels_not: list(&["b"]), ..all() }, false),
            (PruneFilter { until_unix_ns: Some(100), ..all() }, false),
            (PruneFilter { until_unix_ns: Some(101), ..all() }, true),
        ] {
            assert_eq!(filter.lets(&labels, 100), lets, "{filter:?}");
        }
    }
}
