//! What the daemon's own settings say about registries.

use std::{net::IpAddr, path::PathBuf};

use crate::drivers::signatures::Policy;

/// A folder for each registry, with containerd's `hosts.toml` in it.
const HOSTS_FOLDER: &str = "/etc/wharf/certs.d";

/// Settings of all registries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Has a folder for each registry, with its `hosts.toml`.
    pub hosts_folder: PathBuf,
    /// URLs of Docker Hub's mirrors, in the order in which they are asked.
    pub mirrors: Vec<String>,
    /// Registries (HOST, HOST:PORT or a network in CIDR form) whose certificates are not looked at,
    /// and that may speak plain HTTP.
    pub insecure: Vec<String>,
    /// A `config.json` of Docker's, for calls that bring no credentials.
    pub auth_file: Option<PathBuf>,
    /// Which images need a signature.
    pub policy: Policy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hosts_folder: HOSTS_FOLDER.into(),
            mirrors: Vec::new(),
            insecure: Vec::new(),
            auth_file: None,
            policy: Policy::default(),
        }
    }
}

impl Settings {
    /// Whether `registry` (HOST or HOST:PORT) is one of the insecure ones.
    pub(super) fn is_insecure(&self, registry: &str) -> bool {
        let address = registry.rsplit_once(':').map_or(registry, |(host, port)| {
            if port.bytes().all(|b| b.is_ascii_digit()) { host } else { registry }
        });
        let address = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        self.insecure.iter().any(|entry| {
            entry == registry || address.as_ref().is_ok_and(|address| is_within(entry, *address))
        })
    }
}

/// Whether `network` is one in CIDR form that has this address.
fn is_within(network: &str, address: IpAddr) -> bool {
    let Some((base, bits)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn insecure_registries_by_name_and_network() {
        let insecure = ["reg.lan", "reg.lan:5000", "10.0.0.0/8", "fd00::/16", "0.0.0.0/33"];
        let settings =
            Settings { insecure: insecure.map(str::to_owned).to_vec(), ..Settings::default() };
        for (registry, is_insecure) in [
            ("reg.lan", true),
            ("reg.lan:5000", true),
            ("reg.lan:5001", false),
            ("10.200.0.1", true),
            ("10.200.0.1:443", true),
            ("11.0.0.1", false),
            ("[fd00::1]:5000", true),
            ("[fd01::1]:5000", false),
            ("docker.io", false),
        ] {
            assert_eq!(settings.is_insecure(registry), is_insecure, "{registry}");
        }
    }
}
