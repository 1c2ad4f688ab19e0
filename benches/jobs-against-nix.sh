#!/usr/bin/env bash
# All derivations of a package set: `tvix jobs` by one worker and by two, and `nix-env -qaP --drv-path`.
#
#   benches/jobs-against-nix.sh FILE [MEMORY]        (MEMORY of all workers together, default: that of tvix)
#
# FILE evaluates to the set, without attributes that fail by other errors than `throw` and `assert`, as these
# end nix-env. NIX_ENV is the peer (default: nix-env), ROUNDS how often times are taken (3); all three take
# turns. PRIORITY stands in front of each command, such as `chrt -f 10` where other programs run. Nothing is
# written to a store by either. Needs /usr/bin/time and python3. Each derivation that Nix lists must be one of
# ours, or it says so.
set -euo pipefail
cd "$(dirname "$0")/.."
file=$(realpath "${1:?a file that evaluates to a package set}")
memory=${2:+--max-memory $2}
priority=${PRIORITY:-}
read -ra peer <<<"${NIX_ENV:-nix-env}"
rounds=${ROUNDS:-3}
tvix=${TVIX:-}
if [ -z "$tvix" ]; then
    cargo build -q --release -p tvix-cli
    tvix=$(realpath "${CARGO_TARGET_DIR:-target}/release/tvix")
fi
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
export NIX_REMOTE= HOME=$work

# Options and priority are several words or none.
jobs() { $priority "$tvix" jobs -f "$file" --workers "$1" $memory --dry-run --store "$work/store"; }
nix() { $priority "${peer[@]}" -f "$file" -qaP --drv-path; }
export -f jobs nix
export tvix file memory work priority
measured() { /usr/bin/time -f '%e %U %S %M' -a -o "$work/$1" bash -c "peer=(${peer[*]@Q}); $2" >"$work/$1.out" 2>/dev/null; }

for _ in $(seq "$rounds"); do
    measured nix nix
    measured one 'jobs 1'
    measured two 'jobs 2'
done
python3 - "$work" <<'E2'
import json, statistics, sys
work = sys.argv[1]
def median(name):
    rows = [list(map(float, line.split())) for line in open(f"{work}/{name}")]
    return [statistics.median(column) for column in zip(*rows)]
theirs = {line.split()[-1] for line in open(f"{work}/nix.out") if line.strip()}
lines = {}
for name in ("one", "two"):
    jobs = [json.loads(line) for line in open(f"{work}/{name}.out")]
    lines[name] = sorted((job["attr"], job.get("drvPath", "error")) for job in jobs)
    missing = theirs - {job.get("drvPath") for job in jobs}
    if missing:
        print(f"{name}: {len(missing)} derivations of Nix are missing, such as {sorted(missing)[0]}")
if lines["one"] != lines["two"]:
    print("two workers have other jobs than one")
print(f"{len(theirs)} derivations of Nix, {len(lines['one'])} jobs")
nix, one, two = map(median, ("nix", "one", "two"))
print(f"{'':12}{'wall s':>8}{'user s':>8}{'system s':>10}{'peak MiB':>10}")
for name, row in (("nix-env", nix), ("1 worker", one), ("2 workers", two)):
    print(f"{name:12}{row[0]:8.2f}{row[1]:8.2f}{row[2]:10.2f}{row[3] / 1024:10.0f}")
print(f"wall time, 2 workers / nix-env: {two[0] / nix[0]:.2f}; 1 worker / 2 workers: {one[0] / two[0]:.2f}")
E2
