#!/bin/bash
# The runtime's cgroups made by systemd: a virtual machine with a small Debian that was started by it,
# on pure cgroup v2 and, a second time, on v1 (systemd's hybrid hierarchy). Needs root and debootstrap
# (or WHARF_VM_TREE, a tree made by it before).
#
#   tests/vm/systemd.sh [v2|hybrid]    one of the two; without, both
set -euo pipefail
cd "$(dirname "$0")/../.."

# As the Makefile builds: the whole workspace, so that nothing is compiled twice.
build=(cargo build --release --workspace --bins) folder=release
[ "${VM_PROFILE:-release}" = release ] || { build=(cargo build --workspace --bins) folder=debug; }
"${build[@]}"
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT

tree=${WHARF_VM_TREE:-}
if [ -z "$tree" ]; then
    tree=$work/tree
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,jq,procps,criu,iptables bookworm "$tree" \
        "${WHARF_VM_MIRROR:-http://deb.debian.org/debian}" >"$work/log" || { tail "$work/log" >&2; exit 1; }
fi
root=$work/root
cp -a --reflink=auto "$tree" "$root"
rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/usr/share/doc "$root"/usr/share/locale "$root"/usr/share/man
install "target/$folder/wharf-runtime" "$root/usr/local/bin/wharf-runtime"
install "$(command -v busybox)" "$root/usr/bin/busybox"
install tests/vm/systemd-inside.sh "$root/usr/local/bin/inside"
: >"$root/etc/fstab"
echo vm >"$root/etc/hostname"
cat >"$root/etc/systemd/system/inside.service" <<UNIT
[Unit]
After=basic.target
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c '/usr/local/bin/inside; echo \$? >/dev/ttyS1; sync; systemctl poweroff --force --force'
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../inside.service "$root/etc/systemd/system/multi-user.target.wants/inside.service"
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
for unit in getty.target serial-getty@ttyS0.service systemd-resolved.service systemd-timesyncd.service apt-daily.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
for kind in ${1:-v2 hybrid}; do
    echo "== cgroup $kind"
    options=()
    [ "$kind" = v2 ] || options+=(--hybrid)
    rm -f "$work/disk"
    truncate -s 1G "$work/disk"
    mke2fs -q -t ext4 -d "$root" "$work/disk"
    tests/vm/run.sh "${options[@]}" --root "$work/disk" --memory 2048 --deadline "${VM_DEADLINE:-400}" \
        --module inet_diag --module unix_diag --module netlink_diag --module af_packet_diag --module tcp_diag \
        --module udp_diag --module raw_diag --module tun --module veth --module nf_tables --module nfnetlink \
        --module nft_compat --module xt_mark --module nf_conntrack_netlink
done
