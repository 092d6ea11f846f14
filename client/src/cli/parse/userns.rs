//! `--userns`, `--uidmap` and `--gidmap`.

use anyhow::{Result, bail};
use wharf_client::v1::{IdMapping, UserNamespace};

/// What the flags say together; none if they say nothing.
pub(crate) fn users(
    given: Option<&str>,
    uidmap: &[String],
    gidmap: &[String],
) -> Result<Option<UserNamespace>> {
    let Some(given) = given else {
        if uidmap.is_empty() {
            return Ok(None);
        }
        let mappings =
            |list: &[String]| list.iter().map(|one| mapping(one)).collect::<Result<Vec<_>>>();
        let uids = mappings(uidmap)?;
        let gids = if gidmap.is_empty() { uids.clone() } else { mappings(gidmap)? };
        return Ok(Some(UserNamespace { mode: "private".into(), uids, gids, size: 0 }));
    };
    let of_mode = |mode: &str, size| {
        Ok(Some(UserNamespace { mode: mode.into(), size, ..UserNamespace::default() }))
    };
    let size = given.strip_prefix("auto:size=").map(str::parse::<u32>);
    match (given, size) {
        ("host", _) => return of_mode("host", 0),
        ("auto", _) => return of_mode("auto", 0),
        (_, Some(Ok(size))) if size > 0 => return of_mode("auto", size),
        _ => {}
    }
    let numbers: Vec<_> = given.split(':').filter_map(|n| n.parse::<u32>().ok()).collect();
    match (numbers.as_slice(), given.split(':').count()) {
        ([uid, gid, size], 3) if *size > 0 => {
            let range = |host_id: u32| vec![IdMapping { container_id: 0, host_id, size: *size }];
            let (uids, gids) = (range(*uid), range(*gid));
            Ok(Some(UserNamespace { mode: "private".into(), uids, gids, size: 0 }))
        }
        _ => bail!("--userns {given:?}: use host, auto, auto:size=NUMBER or UID:GID:SIZE"),
    }
}

fn mapping(given: &str) -> Result<IdMapping> {
    let numbers: Vec<_> = given.split(':').filter_map(|n| n.parse::<u32>().ok()).collect();
    match (numbers.as_slice(), given.split(':').count()) {
        ([container_id, host_id, size], 3) if *size > 0 => {
            Ok(IdMapping { container_id: *container_id, host_id: *host_id, size: *size })
        }
        _ => bail!("mapping {given:?}: use CONTAINER:HOST:SIZE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_podman_says_it() {
        let of = |given: &str| users(Some(given), &[], &[]);
        let made = of("100000:200000:65536").expect("users").expect("some");
        assert_eq!((made.uids[0].host_id, made.gids[0].host_id), (100_000, 200_000));
        assert_eq!(of("auto:size=7").expect("users").expect("some").size, 7);
        assert!(users(None, &[], &[]).expect("users").is_none());
        let mapped = users(None, &["0:5:6".into()], &[]).expect("users").expect("some");
        assert_eq!((mapped.uids.len(), mapped.gids[0].host_id), (1, 5));
        for bad in ["", "root", "1:2", "1:2:x", "auto:size=x", "1:2:0"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(users(None, &["0:5".into()], &[]).is_err());
    }
}
