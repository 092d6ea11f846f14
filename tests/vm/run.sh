#!/bin/bash
# Runs a command in a virtual machine: Debian's cloud kernel, nothing but cgroup v2, root's file
# system in memory. Needs no KVM, no root on the host and no image: kernel and modules come from
# Debian's package (installed, or unpacked beside the build), programs from this host.
#
#   tests/vm/run.sh [option ...] -- COMMAND [ARG ...]
#
#   --with PATH[:PLACE]  takes a file or folder along, and the libraries of every program in it
#   --tool NAME          takes a program of the host's PATH along, at its own path
#   --dir PATH           makes an empty folder
#   --disk FILE          a disk (raw), /dev/vda and so on; written through to the file
#   --root FILE          a disk with a whole system on it, whose /sbin/init is started instead of the
#                        command; it ends when that powers off, its status is what /wharf-status has
#   --module NAME        loads a module of the kernel
#   --env NAME=VALUE     for the command
#   --hybrid             cgroup v1, with v2 beside it for systemd, in place of v2 alone
#   --memory MIB, --cpus N, --deadline SECONDS, --append WORDS (kernel's), --qemu ARG (repeatable)
#   --pid-file FILE      where the pid of the machine goes, for whoever wants to cut its power
#
# The command's output is this program's; so is its exit status. 124: the deadline; 125: the machine
# ended with no word of the command's end (or its power was cut).
set -euo pipefail

memory=2048 cpus=2 deadline=600 append="" root="" pid_file=""
cgroups="cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1"
with=() tools=() dirs=() disks=() modules=() envs=() extra=()
die() { echo "tests/vm/run.sh: $*" >&2; exit 125; }
while [ $# -gt 0 ]; do
    case $1 in
        --with) with+=("$2"); shift 2 ;;
        --tool) tools+=("$2"); shift 2 ;;
        --dir) dirs+=("$2"); shift 2 ;;
        --disk) disks+=("$2"); shift 2 ;;
        --root) root=$2; shift 2 ;;
        --module) modules+=("$2"); shift 2 ;;
        --env) envs+=("$2"); shift 2 ;;
        --hybrid) cgroups="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0"; shift ;;
        --memory) memory=$2; shift 2 ;;
        --cpus) cpus=$2; shift 2 ;;
        --deadline) deadline=$2; shift 2 ;;
        --append) append+=" $2"; shift 2 ;;
        --qemu) extra+=("$2"); shift 2 ;;
        --pid-file) pid_file=$2; shift 2 ;;
        --) shift; break ;;
        *) die "unknown option $1" ;;
    esac
done
[ $# -gt 0 ] || [ -n "$root" ] || die "no command"
command -v qemu-system-x86_64 >/dev/null || die "qemu-system-x86_64 is missing: apt-get install qemu-system-x86"
[ "$(uname -m)" = x86_64 ] || die "only for x86_64"

here=$(cd "$(dirname "$0")" && pwd)
cache=${WHARF_VM_CACHE:-$(cd "$here/../.." && pwd)/target/vm}
work=$(mktemp -d)
qemu=""
clean() {
    [ -z "$qemu" ] || kill -KILL "$qemu" 2>/dev/null || true
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 125' INT TERM

# --- the kernel: the installed one, or the package's files
newest() { { find "$1" -maxdepth 1 -name 'vmlinuz-*-cloud-amd64' 2>/dev/null || true; } | sort -V | tail -n 1; }
image=$(newest /boot) tree=/
if [ -z "$image" ]; then
    tree=$cache/kernel image=$(newest "$cache/kernel/boot")
fi
if [ -z "$image" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64"
    mkdir -p "$work/deb" "$tree"
    # Downloaded as root, apt wants to hand the file to its own user, which can't be had everywhere.
    (cd "$work/deb" && apt-get -q -o APT::Sandbox::User=root download "$package" >/dev/null) || die "can't download $package"
    dpkg -x "$work"/deb/*.deb "$tree"
    image=$(newest "$tree/boot")
    [ -n "$image" ] || die "no kernel in $package"
fi
version=${image##*/vmlinuz-}
lib=$tree/lib/modules/$version
[ -d "$lib" ] || lib=$tree/usr/lib/modules/$version
if [ ! -s "$lib/modules.dep" ]; then
    /sbin/depmod -b "${lib%/lib/modules/*}" "$version" || die "depmod failed"
fi

# --- what the machine has
first=$work/first fs=$work/first/payload
mkdir -p "$first"/{bin,dev,proc,new} "$fs"/{bin,dev,etc,proc,root,run,sys,tmp,lib,lib64,usr/bin,usr/sbin,sbin,mnt,var/lib}
busybox=$(command -v busybox) || die "busybox-static is missing"
install -D "$busybox" "$fs/usr/bin/busybox"
install -D "$busybox" "$first/bin/busybox"
while read -r applet; do ln -s /usr/bin/busybox "$fs/bin/$applet"; done < <("$busybox" --list)
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$fs/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$fs/etc/group"

copy_libraries() { # of the programs below "$1"
    local file
    while read -r file; do
        [ "$(head -c 4 "$file" | tr -d '\0')" = $'\x7fELF' ] || continue
        # A static program has none.
        { ldd "$file" 2>/dev/null || true; } | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }'
    done < <(find "$1" -type f \( -perm -u+x -o -name '*.so*' \)) | sort -u |
        while read -r library; do
            [ -e "$fs$library" ] || install -D "$(readlink -f "$library")" "$fs$library"
        done
}
take() { # a path of the host, a place in the machine
    mkdir -p "$fs$(dirname "$2")"
    rm -f "$fs$2" 2>/dev/null || true
    cp -aL "$1" "$fs$2"
    copy_libraries "$fs$2"
}
for one in "${with[@]}"; do
    from=${one%%:*} to=${one#*:}
    from=$(realpath -s "$from")
    [ "$to" != "$one" ] || to=$from
    [ -e "$from" ] || die "no $from to take along"
    take "$from" "$to"
done
for one in "${tools[@]}"; do
    path=$(command -v "$one") || die "$one is not on the host's PATH"
    [ ! -L "$fs/bin/$one" ] || rm "$fs/bin/$one"
    take "$path" "$path"
done
for one in "${dirs[@]}"; do mkdir -p "$fs$one"; done

# Modules with those they need, in their order.
load=()
module() {
    local line part name
    line=$(grep -E "/${1//_/[-_]}\.ko[^:]*:" "$lib/modules.dep" | head -n 1) || return 0 # built in
    read -ra parts <<<"${line#*:} ${line%%:*}"
    # The file lists what is needed last first.
    for ((part = ${#parts[@]} - 2; part >= 0; part--)); do add "${parts[part]}"; done
    add "${parts[-1]}"
}
add() {
    local name=/lib/modules/${1##*/}
    [ -e "$fs$name" ] && return
    install -D -m 644 "$lib/$1" "$fs$name"
    load+=("$name")
}
for one in virtio_pci overlay "${modules[@]}"; do module "$one"; done
if [ ${#disks[@]} -gt 0 ] || [ -n "$root" ]; then module virtio_blk; fi
printf '%s\n' "${load[@]}" >"$fs/etc/modules"
printf '%s\n' "${envs[@]}" >"$fs/etc/vm-env"
[ $# -eq 0 ] || printf '%q ' "$@" >"$fs/etc/vm-command"
[ -z "$root" ] || : >"$fs/etc/vm-root"
install -m 755 "$here/init.sh" "$first/init"
install -m 755 "$here/second.sh" "$fs/second.sh"
(cd "$first" && find . -print0 | "$busybox" cpio -0 -o -H newc 2>/dev/null) >"$work/initramfs"

# --- the machine
args=(
    -accel tcg,thread=multi -cpu max -smp "$cpus" -m "$memory" -nodefaults -no-user-config -no-reboot
    -display none -monitor none -kernel "$image" -initrd "$work/initramfs"
    -chardev "file,id=out,path=$work/out" -serial chardev:out
    -chardev "file,id=status,path=$work/status" -serial chardev:status
    -object rng-builtin,id=rng -device virtio-rng-pci,rng=rng
    -append "console=ttyS0 quiet loglevel=3 panic=-1 oops=panic $cgroups mitigations=off nokaslr random.trust_cpu=on$append"
)
[ -z "$root" ] || disks=("$root" "${disks[@]}")
for one in "${disks[@]}"; do args+=(-drive "file=$one,format=raw,if=virtio,cache=writethrough"); done
: >"$work/out"
: >"$work/status"
qemu-system-x86_64 "${args[@]}" "${extra[@]}" </dev/null &
qemu=$!
[ -z "$pid_file" ] || echo "$qemu" >"$pid_file"
tail -c +1 -f --pid="$qemu" -s 0.2 "$work/out" | tr -d '\r' &
reader=$!

end=$((SECONDS + deadline))
while kill -0 "$qemu" 2>/dev/null; do
    if [ "$SECONDS" -ge "$end" ]; then
        kill -KILL "$qemu"
        wait "$qemu" 2>/dev/null || true
        qemu=""
        wait "$reader" 2>/dev/null || true
        echo "tests/vm/run.sh: no end within $deadline s" >&2
        exit 124
    fi
    sleep 0.2
done
wait "$qemu" 2>/dev/null || true
qemu=""
wait "$reader" 2>/dev/null || true
status=$(tr -d '\r\n' <"$work/status")
[[ $status =~ ^[0-9]+$ ]] || exit 125
exit "$status"
