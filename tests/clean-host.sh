#!/bin/bash
# Removes what killed tests, demos and benchmarks have left. Knows them by the marks of their worlds
# (see tests/src/leak.rs): folders /tmp/w-XXXXXX and /tmp/wharf-demo.XXXXXX, cgroups wharf-test-*,
# wharf-demo-* and wharf-bench-*. Don't run it beside a running test.
set -euo pipefail
shopt -s nullglob

for cgroup in /sys/fs/cgroup/{,*/}wharf-{test,demo,bench}-*; do
    while read -r pid; do
        kill -KILL "$pid" 2>/dev/null || true
    done < <(find "$cgroup" -name cgroup.procs -exec cat {} + | sort -u)
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
