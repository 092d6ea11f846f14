#!/bin/bash
# Power cuts: a virtual machine works on a disk and says what was acknowledged; its process is killed in
# the middle of that, which takes all that the machine had only in memory. The next machine mounts the
# disk again, and everything that was acknowledged has to be there.
#
#   tests/power.sh [ROUNDS [WHAT]]    5 rounds if not said; of the `store` alone, of a whole `wharfd`, or `both`
#
# Programs are those in WHARF_BIN_DIR, and WHARF_TORTURE, the test program of that name.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
what=${2:-both}
bin=${WHARF_BIN_DIR:?}
torture=${WHARF_TORTURE:?}
deadline=${VM_DEADLINE:-300}
work=$(mktemp -d)
machine=""
clean() {
    [ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null || true
    rm -rf "$work"
}
trap clean EXIT
say() { printf '%s\n' "$*"; }
fail() { say "FAILED: $*" >&2; exit 1; }

disk() { # a new file system
    rm -f "$work/disk"
    truncate -s 512M "$work/disk"
    mke2fs -q -t ext4 -F "$work/disk"
}
vm() { # options of run.sh, then the script
    local script=${*: -1}
    tests/vm/run.sh --disk "$work/disk" --module ext4 --deadline "$deadline" --memory 1024 \
        --with "$bin/wharfd:/bin/wharfd" --with "$bin/wharf:/bin/wharf" --with "$bin/wharf-shim:/bin/wharf-shim" \
        --with "$torture:/bin/torture" --with "$work/image.tar:/image.tar" "${@:1:$#-1}" -- sh -c "$script"
}
# A moment between $1 and $1 + $2 seconds, in hundredths.
moment() { printf '%d.%02d' $(($1 + RANDOM % $2)) $((RANDOM % 100)); }

# Starts a machine, waits until it has acknowledged something, and cuts its power some time after.
cut_in_the_middle() { # words that acknowledge, the script
    : >"$work/out"
    rm -f "$work/pid"
    vm --pid-file "$work/pid" "$2" >"$work/out" 2>"$work/err" &
    machine=$!
    local end=$((SECONDS + deadline))
    until grep -q "^$1" "$work/out"; do
        kill -0 "$machine" 2>/dev/null || fail "the machine ended: $(tail -n 20 "$work/out" "$work/err")"
        [ "$SECONDS" -lt "$end" ] || fail "nothing was acknowledged: $(tail -n 20 "$work/out" "$work/err")"
        sleep 0.1
    done
    sleep "$(moment 0 6)"
    kill -KILL "$(cat "$work/pid")"
    wait "$machine" 2>/dev/null || true
    machine=""
    # A last line may be half there.
    grep "^$1.*\.\$" "$work/out" | tr -d '\r' >"$work/acknowledged" || true
}

WHARF_BIN_DIR=$bin "$bin/wharf-mkimage" "$work/image.tar" busybox:test >/dev/null

mount='set -e; mkdir -p /d; mount -t ext4 /dev/vda /d;'
total=0
disk
[ "$what" != wharfd ] || store_rounds=0
for ((round = 1; round <= ${store_rounds:-$rounds}; round++)); do
    cut_in_the_middle 'acknowledged ' "$mount WHARF_TORTURE_CHILD=/d/meta torture --exact child --nocapture"
    last=$(sed -n 's/^acknowledged \([0-9]*\)\.$/\1/p' "$work/acknowledged" | tail -n 1)
    vm "$mount WHARF_TORTURE_CHECK=/d/meta WHARF_TORTURE_ACKNOWLEDGED=$last torture --exact after_a_power_cut --nocapture" \
        >"$work/out" 2>&1 || fail "round $round of the store, $last was acknowledged: $(tail -n 30 "$work/out")"
    say "store, cut $round: $last was acknowledged, $(grep -o 'the last is [0-9]*' "$work/out")"
    total=$((total + 1))
done

# A whole supervisor: an image, then containers, volumes, and lives.
works=$mount'
wharfd --root /d/root --state /run/w --address unix:/run/w.sock >/d/log 2>&1 &
export WHARF_ADDRESS=unix:/run/w.sock
until wharf version >/dev/null 2>&1; do sleep 0.1; done
'
does=$works'
wharf load -q -i /image.tar >/dev/null; echo "acknowledged image."
n=$(wharf ps -aq | wc -l)
while :; do
    n=$((n + 1))
    id=$(wharf create --name c$n busybox:test sh -c "echo $n >/made; sync /made; exit 7"); echo "acknowledged container $id."
    wharf volume create v$n >/dev/null; echo "acknowledged volume v$n."
    wharf start -a $id || true
    code=$(wharf wait $id); echo "acknowledged end $id $code."
    if [ $((n % 3)) = 0 ]; then wharf rm $id >/dev/null; echo "acknowledged removal $id."; fi
done'
checks=$works'
bad() { echo "BAD $*"; tail -n 20 /d/log; exit 1; }
wharf events --from 1 --until 0s --format "{{.Action}} {{.ID}}" >/events
while read -r _ what id code; do
    case $what in
        container) grep -q "^create $id" /events || bad "no event of the creation of $id" ;;
        end) grep -q "^exit $id" /events || bad "no event of the end of $id" ;;
        removal) grep -q "^delete $id" /events || bad "no event of the removal of $id" ;;
    esac
    case $what in
        image) wharf image inspect busybox:test >/dev/null || bad "no image" ;;
        container) grep -q "^acknowledged removal $id" /acknowledged || grep -q "^acknowledged end $id" /acknowledged ||
            wharf inspect $id >/dev/null 2>&1 || removing $id || bad "no container $id" ;;
        volume) wharf volume inspect $id >/dev/null || bad "no volume $id" ;;
        end) grep -q "^acknowledged removal $id" /acknowledged || {
            now=$(wharf inspect --format "{{.State.Status}} {{.State.ExitCode}}" $id 2>/dev/null) || { removing $id && continue; bad "no container $id"; }
            [ "$now" = "exited $code" ] || bad "$id has ended with $code: $now"; } ;;
        removal) ! wharf inspect $id >/dev/null 2>&1 || bad "$id is there again" ;;
    esac
done </acknowledged
wharf run --rm busybox:test true || bad "no container runs"
wharf system doctor || bad doctor
echo all is there'
# What was being removed when the power went was not acknowledged, and may be gone.
checks='removing() { [ "$1" = "$(tail -n 1 /last-end)" ]; }; '$checks
disk
wharfd_rounds=$rounds
[ "$what" != store ] || wharfd_rounds=0
for ((round = 1; round <= wharfd_rounds; round++)); do
    cut_in_the_middle 'acknowledged container' "$does"
    sed 's/\.$//' "$work/acknowledged" >"$work/list"
    sed -n 's/^acknowledged end \([0-9a-f]*\) .*/\1/p' "$work/list" | tail -n 1 >"$work/last-end"
    vm --with "$work/list:/acknowledged" --with "$work/last-end:/last-end" "$checks" >"$work/out" 2>&1 ||
        fail "round $round of wharfd: $(tail -n 40 "$work/out")"
    grep -q '^all is there' "$work/out" || fail "round $round of wharfd: $(tail -n 40 "$work/out")"
    say "wharfd, cut $round: $(wc -l <"$work/list") things were acknowledged, and are there"
    total=$((total + 1))
done
say "$total power cuts, nothing that was acknowledged was lost"
