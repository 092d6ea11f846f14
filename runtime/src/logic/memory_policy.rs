//! From which memory nodes a container's processes allocate.

use serde::{Deserialize, Serialize};

use super::number_list;
use crate::error::Error;
use crate::spec::{LinuxMemoryPolicy, MemoryPolicyFlagType, MemoryPolicyModeType};

/// What set_mempolicy takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryPolicy {
    /// Mode and flags, in the kernel's numbers.
    pub(crate) mode: u32,
    /// A bit for each node.
    pub(crate) nodes: Vec<u64>,
}

const NUMA_BALANCING: u32 = 1 << 13;
const RELATIVE_NODES: u32 = 1 << 14;
const STATIC_NODES: u32 = 1 << 15;

/// Checks and converts.
pub(crate) fn parse(spec: &LinuxMemoryPolicy) -> Result<MemoryPolicy, Error> {
    use MemoryPolicyModeType as Mode;
    let refuse = |field: &str, reason: String| Error::Spec {
        field: format!("linux.memoryPolicy.{field}"),
        reason: format!("invalid memory policy {}: {reason}", field.trim_end_matches('s')),
    };
    let text = spec.nodes().as_deref().unwrap_or("");
    let nodes = number_list::parse(text).map_err(|reason| refuse("nodes", reason))?;
    // What the kernel would say of each, in words.
    let (mode, takes_nodes) = match spec.mode() {
        Mode::MpolDefault => (0, Some(false)),
        Mode::MpolPreferred => (1, None),
        Mode::MpolBind => (2, Some(true)),
        Mode::MpolInterleave => (3, Some(true)),
        Mode::MpolLocal => (4, Some(false)),
        Mode::MpolPreferredMany => (5, Some(true)),
        Mode::MpolWeightedInterleave => (6, Some(true)),
    };
    if takes_nodes.is_some_and(|takes| takes == nodes.is_empty()) {
        let how = if nodes.is_empty() { "needs" } else { "takes no" };
        return Err(refuse("nodes", format!("{} {how} nodes", spec.mode())));
    }
    let mut bits = 0;
    for flag in spec.flags().iter().flatten() {
        bits |= match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => NUMA_BALANCING,
            MemoryPolicyFlagType::MpolFRelativeNodes => RELATIVE_NODES,
            MemoryPolicyFlagType::MpolFStaticNodes => STATIC_NODES,
        };
    }
    if bits & RELATIVE_NODES != 0 && bits & STATIC_NODES != 0 {
        return Err(refuse("flags", "nodes are relative or static, not both".to_owned()));
    }
    if bits & NUMA_BALANCING != 0
        && !matches!(spec.mode(), Mode::MpolBind | Mode::MpolPreferredMany)
    {
        let reason = format!("MPOL_F_NUMA_BALANCING does not go with {}", spec.mode());
        return Err(refuse("flags", reason));
    }
    if bits != 0 && nodes.is_empty() {
        return Err(refuse("flags", format!("mean nothing for {} without nodes", spec.mode())));
    }
    Ok(MemoryPolicy { mode: mode | bits, nodes })
}
