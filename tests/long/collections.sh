#!/usr/bin/env bash
# Collections of garbage at every few calls, with freed memory overwritten: the cases of the language, random
# programs, random imports from derivations, and the package set, each compared with its evaluation without
# collections.
#
#     tests/long/collections.sh [MINUTES]
#
# Each round has other seeds and other numbers of calls. SEED (1) is the first seed. PROGRAMS is a folder with the
# tests' programs (default: they are built). Exits with 1 if something differed or crashed; its output is printed.
set -euo pipefail

minutes=${1:-60}
round=${SEED:-1}
workspace=$(cd "$(dirname "$0")/../.." && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR=$work

build() {
    cargo test -q "$@" --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}
if [ -z "${PROGRAMS:-}" ]; then
    PROGRAMS=$work
    cd "$workspace"
    for program in $(build -p tvix-eval --test language --test stress) $(build -p tvix-tests --test packages); do
        name=$(basename "$program")
        cp "$program" "$work/${name%-*}"
    done
fi

failed=0
# run FOLDER PROGRAM SECONDS EVERY
run() {
    local start=$SECONDS
    export TVIX_SEED=$((round * 1000003)) TVIX_STRESS_SECONDS=$3 TVIX_STRESS_EVERY=$4
    if (cd "$workspace/$1" && "$PROGRAMS/$2" collections_change --test-threads 1 --nocapture) >"$work/output" 2>&1; then
        echo "round $round: $2, every $4 calls, $((SECONDS - start)) s:" \
            "$(grep -oE '[0-9]+ (programs compared|of [0-9]+ cases compared)' "$work/output" | tr '\n' ' ')"
    else
        failed=1
        echo "round $round: $2 failed, every $4 calls"
        cat "$work/output"
    fi
}

every=(1 2 3 7 20 100)
packages=(20000 5000 2000 1000 500 300)
end=$((SECONDS + minutes * 60))
while [ $SECONDS -lt $end ]; do
    index=$((round % 6))
    run tvix-eval stress 60 "1 to 40"
    run tvix-eval language 60 "${every[index]}"
    run tests packages 0 "${packages[index]}"
    round=$((round + 1))
done
exit $failed
