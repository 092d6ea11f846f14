#!/bin/bash
# What tests/vm/systemd.sh runs in its machine.
set -uo pipefail
failed=0
check() { # what, got, wanted
    if [ "$2" = "$3" ]; then echo "ok      $1"; else echo "FAILED  $1: $2, not $3"; failed=1; fi
}
bundle=/run/bundle
mkdir -p $bundle/rootfs/{bin,proc,sys,dev,tmp}
cp /usr/bin/busybox $bundle/rootfs/bin/busybox
for name in sh sleep cat echo mkdir grep true; do ln -s busybox $bundle/rootfs/bin/$name; done
cd $bundle
wharf-runtime spec
change() { jq "$1" config.json >new.json && mv new.json config.json; }
change '.process.terminal = false | .process.args = ["sleep", "1000"] | .root.readonly = false
    | .linux.cgroupsPath = "machine-wharf.slice:wharf:one"
    | .linux.resources.memory = {"limit": 67108864} | .linux.resources.pids = {"limit": 20}
    | .linux.resources.cpu = {"quota": 50000, "period": 100000, "shares": 512, "cpus": "0"}'
w() { wharf-runtime --systemd-cgroup "$@"; }
show() { systemctl show --property "$1" --value wharf-one.scope; }
scope=machine.slice/machine-wharf.slice/wharf-one.scope
v2=no
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || v2=yes
at() { # the cgroup, in v1's hierarchy of a controller
    if [ $v2 = yes ]; then echo /sys/fs/cgroup/$scope; else echo "/sys/fs/cgroup/$1/$scope"; fi
}
# A limit by its name in v2, whatever the version.
limit() {
    if [ $v2 = yes ]; then cat "$(at)/$1"; return; fi
    case $1 in
        memory.max) cat "$(at memory)/memory.limit_in_bytes" ;;
        cpu.max) echo "$(cat "$(at cpu)/cpu.cfs_quota_us") $(cat "$(at cpu)/cpu.cfs_period_us")" ;;
        pids.max) cat "$(at pids)/pids.max" ;;
        cpuset.cpus) cat "$(at cpuset)/cpuset.cpus" ;;
    esac
}
place() { # of a process
    if [ $v2 = yes ]; then cat "/proc/$1/cgroup"; else sed -n 's/^[0-9]*:memory:/0::/p' "/proc/$1/cgroup"; fi
}
memory=MemoryMax
[ $v2 = yes ] || memory=MemoryLimit
echo "pure v2: $v2; systemd $(systemctl --version | sed -n 's/^systemd \([0-9]*\).*/\1/p')"

w run -d one </dev/null >/dev/null 2>run.log; check run "$?$(cat run.log)" 0
check "state of the unit" "$(systemctl is-active wharf-one.scope)" active
check "place of the cgroup" "$(place "$(w state one | jq .pid)")" "0::/$scope"
check "only the container in it" "$(wc -l <"$(at memory)/cgroup.procs")" 1
check memory.max "$(limit memory.max)" 67108864
check $memory "$(show $memory)" 67108864
check TasksMax "$(show TasksMax)" 20
check CPUQuotaPerSecUSec "$(show CPUQuotaPerSecUSec)" 500ms
check cpu.max "$(limit cpu.max)" "50000 100000"
check pids.max "$(limit pids.max)" 20
check cpuset.cpus "$(limit cpuset.cpus)" 0
[ $v2 = no ] || check AllowedCPUs "$(show AllowedCPUs)" 0
check Delegate "$(show Delegate)" yes
w update --memory 100M --pids-limit 30 --cpu-period 50000 one; check update $? 0
check "$memory after" "$(show $memory)" 104857600
check "TasksMax after" "$(show TasksMax)" 30
check "cpu.max after" "$(limit cpu.max)" "50000 50000"
systemctl daemon-reload
check "memory.max after a reload" "$(limit memory.max)" 104857600
check "devices after a reload" "$(w exec one sh -c 'echo x >/dev/null && echo yes')" yes
check exec "$(w exec one sh -c 'cat /proc/self/cgroup' | sed 's/^[0-9]*:[^:]*:/0::/' | sort -u)" "0::/"
w pause one; check pause "$(w state one | jq -r .status)" paused
w resume one; check resume "$(w state one | jq -r .status)" running
w kill one KILL
for _ in $(seq 100); do [ "$(w state one | jq -r .status)" = stopped ] && break; sleep 0.1; done
w delete one; check delete $? 0
check "unit after" "$(systemctl show --property LoadState --value wharf-one.scope)" not-found
check "cgroup after" "$(ls -d "$(at memory)" 2>/dev/null)" ""

change '.linux.cgroupsPath = "nonsense"'
check "a path that is none" "$(w run two 2>&1 </dev/null | grep -c 'slice:prefix:name')" 1
change 'del(.linux.cgroupsPath) | .annotations = {"org.systemd.property.TimeoutStopSec": "3"}'
w run -d three </dev/null >/dev/null; check "by the id" "$(systemctl is-active wharf-three.scope)" active
check "an annotation" "$(systemctl show --property TimeoutStopUSec --value wharf-three.scope)" 3s
w delete --force three; check "delete --force" $? 0

# criu, which this kernel and it agree about.
change '.linux.cgroupsPath = "/wharf-test/cr" | .annotations = {}
    | .process.args = ["sh", "-c", "n=0; while true; do n=$((n+1)); echo $n >/tmp/n; sleep 0.1; done"]'
r() { wharf-runtime "$@"; }
# What criu can take over are pipes, not files of the host's.
(tail -f /dev/null | r run -d --pid-file cr.pid cr 2>&1 | cat >/dev/null) &
for _ in $(seq 100); do [ -s rootfs/tmp/n ] && break; sleep 0.1; done
check "run for a checkpoint" "$(r state cr | jq -r .status)" running
if criu check -v4 >criu.log 2>&1; then
    r checkpoint --image-path image --work-path work --manage-cgroups-mode ignore cr; check checkpoint $? 0
    [ $failed = 0 ] || grep -h -B 8 Error work/dump.log
    r state cr >/dev/null 2>&1; check "gone after it" $? 1
    before=$(cat rootfs/tmp/n)
    (tail -f /dev/null | r --log restore.log restore -d --image-path image --work-path work --manage-cgroups-mode ignore cr 2>&1 | cat >/dev/null) &
    for _ in $(seq 200); do r state cr >/dev/null 2>&1 && break; sleep 0.1; done
    check "restore" "$(cat restore.log 2>/dev/null)" ""
    check "state after" "$(r state cr | jq -r .status)" running
    sleep 2
    after=$(cat rootfs/tmp/n)
    check "goes on from where it was" "$([ "$after" -gt "$before" ] && echo yes)" yes
    check "exec after" "$(r exec cr echo hello)" hello
    check "cgroup after" "$(place "$(r state cr | jq .pid)")" "0::/wharf-test/cr"

    # Memory first, while it goes on; then only what has changed since.
    r checkpoint --pre-dump --image-path parent --work-path work cr; check "pre-dump" $? 0
    check "runs after a pre-dump" "$(r state cr | jq -r .status)" running
    r checkpoint --image-path child --work-path work --parent-path ../parent cr; check "checkpoint over it" $? 0
    check "its parent" "$(readlink child/parent)" ../parent
else
    grep -E "Error|Warn" criu.log
    echo "skipped: criu"
fi
r delete --force cr; check "delete after" $? 0
check "mounts left" "$(grep -c criu-root /proc/self/mountinfo)" 0
exit $failed
