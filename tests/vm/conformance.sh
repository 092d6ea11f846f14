#!/bin/bash
# The runtime's and the shim's own tests in a virtual machine with nothing but cgroup v2.
#
#   tests/vm/conformance.sh [--sample] [WORD ...]    tests whose name has a word in it; none: all
#
# --sample leaves out what differs little from one cgroup version to the other.
#
# VM_PROFILE=dev takes the build that `cargo test` makes of these two crates without --release.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The spec's newest parts want a kernel after this machine's 6.1, engines are not in it.
skip='figures\|rounds\|overhead\|spec\|engines'
if [ "${1:-}" = --sample ]; then
    skip="$skip"'\|peers\|stdio\|upgrade\|containerd\|escape\|adopt\|foreign\|refused\|checkpoint'
    shift
fi

# As the Makefile builds: the whole workspace, so that nothing is compiled twice.
build=(cargo test --release --workspace)
[ "${VM_PROFILE:-release}" = release ] || build=(cargo test -p wharf-runtime -p wharf-shim)
list=$(mktemp)
trap 'rm -f "$list"' EXIT
"${build[@]}" --bins --tests --no-run --message-format=json-render-diagnostics >"$list"
# Crate and program of each integration test. Figures and many rounds are not for here.
tests=$(sed -nE 's|.*"package_id":"[^"]*/(runtime\|shim)#.*"kind":\["test"\].*"executable":"([^"]+)".*|\1 \2|p' "$list" |
    grep -v "/\\($skip\\)-" | sort)
bins=$(sed -nE 's|.*"kind":\["bin"\].*"executable":"([^"]+/wharf-(runtime\|shim))".*|\1|p' "$list" | sort -u)
[ "$(wc -l <<<"$tests")" -ge 3 ] || { echo "found too few test programs: $tests" >&2; exit 1; }

options=()
for path in $bins; do options+=(--with "$path"); done
while read -r _ path; do options+=(--with "$path"); done <<<"$tests"
for crate in runtime shim; do options+=(--with "$PWD/$crate/Cargo.toml"); done
for tool in bash unshare ps; do options+=(--tool "$tool"); done
# Checkpoints, where the host has criu to take along.
if command -v criu >/dev/null && command -v iptables-restore >/dev/null; then
    options+=(--tool criu --tool tar --tool iptables-restore --tool ip6tables-restore)
    options+=(--with "/usr/lib/$(uname -m)-linux-gnu/xtables")
fi
for module in nfnetlink nf_tables nft_compat xt_mark nf_conntrack_netlink tun unix_diag inet_diag tcp_diag udp_diag raw_diag af_packet_diag netlink_diag; do
    options+=(--module "$module")
done
for module in dummy veth; do options+=(--module "$module"); done

# Inside: each program as cargo would run it.
inside='
failed=""
while read -r crate program; do
    name=${program##*/}
    echo "== $crate/${name%-*}"
    cd "$WHERE/$crate"
    "$program" $WORDS || failed="$failed $crate/${name%-*}"
done </tests
[ -z "$failed" ] || { echo "FAILED:$failed"; exit 1; }
echo "all passed on cgroup v2"'
printf '%s\n' "$tests" >"$list"
tests/vm/run.sh "${options[@]}" --with "$list:/tests" --memory 3072 --deadline "${VM_DEADLINE:-900}" \
    --env "WHERE=$PWD" --env "WORDS=$*" --env RUST_TEST_THREADS=2 -- sh -c "$inside"
