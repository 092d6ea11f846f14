#!/bin/bash
# A container outlives its supervisor: builds nothing, needs root and the folder with the programs.
#
# All of it is on folders and a cgroup parent of its own, and is removed at the end, also after a
# failure or Ctrl-C.
set -euo pipefail

bin=${1:?usage: demo.sh FOLDER_OF_PROGRAMS}
home=$(mktemp -d /tmp/wharf-demo.XXXXXX)
cgroup=wharf-demo-${home##*.}
export WHARF_ADDRESS=unix:$home/wharfd.sock
daemon=

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' off=$'\e[0m'; else bold='' dim='' red='' green='' off=''; fi
step=0
say() { step=$((step + 1)); printf '\n%s%d. %s%s\n' "$bold" "$step" "$*" "$off"; }
note() { printf '   %s\n' "$*"; }
fail() { printf '%sFAILED: %s%s\n' "$red" "$*" "$off" >&2; exit 1; }
# Shows the command, then runs it. What it says may go into a pipe; the command itself does not.
exec 3>&1
show() { printf '   %s$ %s%s\n' "$dim" "${*//$home/...}" "$off" >&3; "$@"; }
wharf() { "$bin/wharf" "$@"; }

clean_up() {
    status=$?
    trap - EXIT
    # To the end, whatever happens: not even a reader that has gone may stop it.
    trap '' INT TERM PIPE
    set +e
    if [ $status -eq 1 ] && [ -s "$home/wharfd.log" ]; then
        echo "The supervisor's last words:" >&2
        tail -n 20 "$home/wharfd.log" >&2
    fi
    if [ -n "$daemon" ]; then
        for id in $(wharf ps -a -q 2>/dev/null); do wharf rm -f "$id" >/dev/null 2>&1 || true; done
        kill "$daemon" 2>/dev/null || true
        for _ in {1..50}; do kill -0 "$daemon" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    # Whatever is still there, if the supervisor could not be asked any more.
    for folder in /sys/fs/cgroup/"$cgroup" /sys/fs/cgroup/*/"$cgroup"; do
        [ -d "$folder" ] || continue
        find "$folder" -name cgroup.procs -exec cat {} + | xargs -r kill -KILL 2>/dev/null || true
    done
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        # The shims of this demo: they work in its folders.
        case $(readlink "$proc/cwd" 2>/dev/null || true) in "$home"/*) kill -KILL "$pid" 2>/dev/null || true ;; esac
    done
    for folder in /sys/fs/cgroup/"$cgroup" /sys/fs/cgroup/*/"$cgroup"; do
        for _ in {1..20}; do
            [ -d "$folder" ] || break
            find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
        done
    done
    rm -rf --one-file-system "$home"
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM
trap 'exit 141' PIPE

start_supervisor() {
    "$bin/wharfd" --config "$home/config.toml" --root "$home/root" --state "$home/state" \
        --address "$WHARF_ADDRESS" >>"$home/wharfd.log" 2>&1 &
    daemon=$!
    # The shell must not comment on its being killed.
    disown "$daemon"
    for _ in {1..500}; do
        wharf version >/dev/null 2>&1 && return
        kill -0 "$daemon" 2>/dev/null || fail "wharfd did not start"
        sleep 0.02
    done
    fail "wharfd does not answer"
}
pid_of_counter() { wharf inspect -f '{{.State.Pid}}' counter; }
lines() { wharf logs counter | wc -l; }

say 'A small real image, made on the spot'
"$bin/wharf-mkimage" "$home/demo.tar" demo:latest | sed 's/^/   /'

say 'A supervisor on folders of its own'
echo "cgroup_parent = \"/$cgroup\"" >"$home/config.toml"
start_supervisor
note "wharfd is process $daemon, its files are in $home"
show wharf load -i "$home/demo.tar" 2>/dev/null | sed 's/^/   /'
show wharf run --rm demo | sed 's/^/   /'

say 'A container that counts to 60, ten a second, and exits with 7'
show wharf run -d --name counter demo /bin/demo count 60 100 7 | cut -c 1-12 | sed 's/^/   /'
until [ "$(lines)" -ge 12 ]; do sleep 0.1; done
before=$(pid_of_counter)
wharf logs --tail 3 counter | sed 's/^/   /'
note "the counter is process $before"

say 'The supervisor is killed in the middle: SIGKILL, no goodbye'
kill -KILL "$daemon"
while kill -0 "$daemon" 2>/dev/null; do sleep 0.02; done
printf '   %s$ kill -KILL %s%s\n' "$dim" "$daemon" "$off"
daemon=
wharf ps >/dev/null 2>&1 && fail 'somebody still answers'
note 'nobody answers now ...'
kill -0 "$before" 2>/dev/null || fail 'the counter died with its supervisor'
sleep 1
note "... and process $before counts on"

say 'A new supervisor, on the same folders'
begin=$(date +%s%N)
start_supervisor
note "wharfd is process $daemon, answering after $((($(date +%s%N) - begin) / 1000000)) ms"
after=$(pid_of_counter)
show wharf ps | sed 's/^/   /'
[ "$before" = "$after" ] || fail "the counter was process $before and is $after"
note "${green}the same process: $after${off}"

say 'What it said while nobody was there, and how it ends'
show wharf logs -f counter | tr '\n' ' ' | fold -s -w 90 | sed 's/^/   /'
echo
code=$(show wharf wait counter)
wharf logs counter | cmp - <(seq 60) >/dev/null || fail 'the log has a gap'
note "${green}60 numbers, none missing, none twice${off}"
[ "$code" = 7 ] || fail "the exit code is $code"
note "${green}exit code $code${off}"

say 'All of it is removed'
show wharf rm counter | sed 's/^/   /'
