//! Lists of containers: filters and pages. Pure.

use std::sync::Arc;

use wharf_proto::v1;

use super::translate;
use crate::services::containers::{Error, record::Record};

/// Containers on a page at most, and by default.
const MAX_PAGE: usize = 1000;

/// One page.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) records: Vec<Arc<Record>>,
    /// Empty on the last.
    pub(super) next: String,
}

/// The page after `token` of those that the filter lets through; `records` are sorted, newest
/// first. A token says where the page before ended, so that containers that come and go meanwhile
/// neither double nor hide others.
pub(super) fn page(
    records: &[Arc<Record>],
    filter: &v1::ContainerFilter,
    page_size: u32,
    token: &str,
) -> Result<Page, Error> {
    let size = match usize::try_from(page_size).unwrap_or(MAX_PAGE) {
        0 => MAX_PAGE,
        n => n.min(MAX_PAGE),
    };
    let after = match token {
        "" => None,
        token => Some(parse(token).ok_or_else(|| {
            Error::field("page_token", format!("{token:?} is not from an answer before"))
        })?),
    };
    let mut wanted = records
        .iter()
        .filter(|r| after.as_ref().is_none_or(|a| (r.created_unix_ns, r.id.as_str()) < (a.0, a.1)))
        .filter(|r| lets(filter, r));
    let page: Vec<Arc<Record>> = wanted.by_ref().take(size).cloned().collect();
    let next = match (wanted.next(), page.last()) {
        (Some(_), Some(last)) => format!("{}-{}", last.created_unix_ns, last.id),
        _ => String::new(),
    };
    Ok(Page { records: page, next })
}

fn parse(token: &str) -> Option<(i64, &str)> {
    let (time, id) = token.split_once('-')?;
    Some((time.parse().ok()?, id))
}

fn lets(filter: &v1::ContainerFilter, record: &Record) -> bool {
    let state = i32::from(translate::state(&record.state));
    let label = |wanted: &String| match wanted.split_once('=') {
        Some((key, value)) => record.spec.labels.get(key).is_some_and(|v| v == value),
        None => record.spec.labels.contains_key(wanted),
    };
    let image = &filter.image;
    let image_fits = image.is_empty()
        || record.spec.image == *image
        || record.image.id == *image
        || record.image.manifest_digest == *image
        || record
            .image
            .id
            .strip_prefix("sha256:")
            .is_some_and(|hex| image.len() >= 12 && hex.starts_with(image.as_str()));
    let health = record.health.as_ref().map_or("none", |health| health.status.as_str());
    let stopped = state == i32::from(v1::ContainerState::Stopped);
    let restarts = filter.restarting.is_none_or(|w| !stopped || w == record.restarts.waiting);
    restarts
        && (filter.health.is_empty() || filter.health.iter().any(|wanted| wanted == health))
        && (filter.states.is_empty() || filter.states.contains(&state))
        && record.name.as_str().contains(&filter.name)
        && record.id.as_str().starts_with(&filter.id)
        && image_fits
        && filter.labels.iter().all(label)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wharf_proto::v1;

    use super::page;
    use crate::services::containers::{
        machine::State,
        process::Process,
        record::{ImageRef, Record},
        spec::Spec,
    };

    fn records() -> Vec<Arc<Record>> {
        (0..10i64)
            .rev()
            .map(|n| {
                let labels = [("n".to_owned(), n.to_string())].into();
                Arc::new(Record {
                    id: format!("{n:064x}").parse().expect("id"),
                    namespace: "default".parse().expect("namespace"),
                    name: format!("name-{n}").parse().expect("name"),
                    spec: Spec { image: "busybox".into(), labels, ..Default::default() },
                    image: ImageRef {
                        id: "sha256:aaaaaaaaaaaabb".into(),
                        manifest_digest: String::new(),
                        chain_id: None,
                    },
                    process: Process::default(),
                    // Pairs with the same time: the id decides.
                    created_unix_ns: n / 2,
                    revision: 1,
                    state: State::Created,
                    remove_volumes: false,
                    restarts: Default::default(),
                    health: None,
                })
            })
            .collect()
    }

    fn names(filter: &v1::ContainerFilter) -> usize {
        page(&records(), filter, 0, "").expect("page").records.len()
    }

    #[test]
    fn pages_cover_all_once() {
        let records = records();
        let mut token = String::new();
        let mut got = Vec::new();
        loop {
            let page = page(&records, &v1::ContainerFilter::default(), 3, &token).expect("page");
            got.extend(page.records.iter().map(|r| r.name.clone()));
            if page.next.is_empty() {
                break;
            }
            token = page.next;
        }
        assert_eq!(got, records.iter().map(|r| r.name.clone()).collect::<Vec<_>>());
        assert!(page(&records, &v1::ContainerFilter::default(), 3, "x").is_err());
    }

    #[test]
    fn filters_all_must_match() {
        let f = v1::ContainerFilter::default;
        assert_eq!(names(&v1::ContainerFilter { labels: vec!["n".into()], ..f() }), 10);
        assert_eq!(names(&v1::ContainerFilter { labels: vec!["n=3".into()], ..f() }), 1);
        let both = vec!["n=3".into(), "n=4".into()];
        assert_eq!(names(&v1::ContainerFilter { labels: both, ..f() }), 0);
        assert_eq!(names(&v1::ContainerFilter { name: "e-7".into(), ..f() }), 1);
        assert_eq!(names(&v1::ContainerFilter { image: "busybox".into(), ..f() }), 10);
        assert_eq!(names(&v1::ContainerFilter { image: "aaaaaaaaaaaa".into(), ..f() }), 10);
        assert_eq!(names(&v1::ContainerFilter { image: "other".into(), ..f() }), 0);
        assert_eq!(names(&v1::ContainerFilter { health: vec!["none".into()], ..f() }), 10);
        assert_eq!(names(&v1::ContainerFilter { health: vec!["healthy".into()], ..f() }), 0);
        let running = v1::ContainerState::Running.into();
        assert_eq!(names(&v1::ContainerFilter { states: vec![running], ..f() }), 0);
    }
}
