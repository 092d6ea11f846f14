//! Names for containers that were given none: an adjective and a harbour word, as in a port.

use crate::ids::{ContainerName, random_hex};

const ADJECTIVES: &[&str] = &[
    "able", "amber", "brave", "brisk", "bright", "calm", "candid", "clear", "clever", "coastal",
    "cosy", "crisp", "daring", "deft", "eager", "early", "fair", "fleet", "fond", "fresh",
    "gentle", "glad", "golden", "grand", "hardy", "honest", "jolly", "keen", "kind", "lively",
    "loyal", "lucid", "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "plucky",
    "polite", "proud", "quick", "quiet", "rapid", "ready", "robust", "salty", "serene", "sharp",
    "silent", "sleek", "solid", "steady", "stout", "sturdy", "sunny", "swift", "tidy", "trusty",
    "upbeat", "vivid", "warm", "witty",
];

const NOUNS: &[&str] = &[
    "anchor", "barge", "bay", "beacon", "berth", "boat", "bollard", "bosun", "bow", "breaker",
    "buoy", "cabin", "canal", "cargo", "clipper", "coast", "compass", "cove", "crane", "crate",
    "crew", "current", "cutter", "dinghy", "dock", "ferry", "fjord", "galley", "gangway", "gull",
    "harbour", "hawser", "helm", "hull", "jetty", "keel", "ketch", "lagoon", "lantern", "mast",
    "mooring", "oar", "pelican", "pier", "pilot", "pontoon", "quay", "raft", "reef", "rudder",
    "sail", "schooner", "seal", "shoal", "skiff", "sloop", "starfish", "steward", "tern", "tide",
    "trawler", "tug", "wave", "yawl",
];

/// A name that `taken` does not know; with a number after it when luck runs out.
///
/// # Errors
/// When there are no random numbers.
pub(super) fn made_up(taken: impl Fn(&ContainerName) -> bool) -> std::io::Result<ContainerName> {
    let mut suffix = String::new();
    loop {
        let random = u32::from_str_radix(&random_hex::<4>()?, 16).unwrap_or(0) as usize;
        let adjective = ADJECTIVES[random % ADJECTIVES.len()];
        let noun = NOUNS[(random / ADJECTIVES.len()) % NOUNS.len()];
        let name: ContainerName =
            format!("{adjective}_{noun}{suffix}").parse().expect("the words are made for it");
        if !taken(&name) {
            return Ok(name);
        }
        suffix = format!("_{}", random % 10_000);
    }
}

#[cfg(test)]
mod tests {
    use super::made_up;

    #[test]
    fn goes_on_until_one_is_free() {
        let tries = std::cell::Cell::new(0);
        let name = made_up(|_| {
            tries.set(tries.get() + 1);
            tries.get() < 5
        })
        .expect("random numbers");
        assert_eq!(tries.get(), 5);
        assert!(name.as_str().contains('_'));
    }
}
