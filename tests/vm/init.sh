#!/bin/busybox sh
# First process of the machine. The kernel's first root can't be pivoted away, which containers want:
# so everything moves to a tmpfs (or the disk with a system of its own is taken) before anything
# starts.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/payload$module" || echo "no module $module"; done </payload/etc/modules
if [ -e /payload/etc/vm-root ]; then
    until [ -b /dev/vda ]; do $b sleep 0.1; done
    $b mount /dev/vda /new
    $b umount /proc
    $b mount --move /dev /new/dev
    exec $b switch_root /new /sbin/init
fi
$b mount -t tmpfs -o mode=755,size=80% root /new
$b mv /payload/* /new/
$b umount /proc
$b mount --move /dev /new/dev
exec $b switch_root /new /second.sh
