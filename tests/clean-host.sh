#!/bin/bash
# Removes what killed tests, demos and benchmarks have left. Knows them by the marks of their worlds
# (see tests/src/leak.rs): folders /tmp/w-XXXXXX and /tmp/wharf-demo.XXXXXX, cgroups wharf-test-*,
# wharf-demo-* and wharf-bench-*. Don't run it beside a running test.
set -euo pipefail
shopt -s nullglob

pids() { find "$1" -name cgroup.procs -exec cat {} + | sort -u; }
for cgroup in /sys/fs/cgroup/{,*/}wharf-{test,demo,bench}-*; do
    # Who is frozen dies only when it is let go: cgroup v1, then v2.
    find "$cgroup" -name freezer.state -exec sh -c 'echo THAWED >"$1"' - {} \;
    find "$cgroup" -name cgroup.freeze -exec sh -c 'echo 0 >"$1"' - {} \;
    while read -r pid; do
        kill -KILL "$pid" 2>/dev/null || true
    done < <(pids "$cgroup")
done
for cgroup in /sys/fs/cgroup/{,*/}wharf-{test,demo,bench}-*; do
    for _ in {1..100}; do
        [ -z "$(pids "$cgroup")" ] && break
        sleep 0.1
    done
done
for folder in /tmp/w-?????? /tmp/wharf-demo.??????; do
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        if [ "$pid" != $$ ] && { tr '\0' ' ' <"$proc/cmdline"; readlink "$proc/cwd" || true; } 2>/dev/null |
            grep -qF "$folder"; then
            kill -KILL "$pid" 2>/dev/null || true
        fi
    done
    awk -v f="$folder/" 'index($5, f) == 1 { print $5 }' /proc/self/mountinfo | tac |
        while read -r point; do umount -l "$point"; done
    rm -rf --one-file-system "$folder"
    echo "removed $folder"
done
for cgroup in /sys/fs/cgroup/{,*/}wharf-{test,demo,bench}-*; do
    find "$cgroup" -depth -type d -exec rmdir {} +
done
