#!/bin/sh
# Records the derivations of release.nix with C++ Nix 2.34: the store paths of all of them, which change with any byte of any derivation,
# and a few complete ones. Run it again after a change to these packages.
set -eu
cd "$(dirname "$0")"
nix-instantiate --version | grep -q ' 2\.34' || { echo "this needs nix-instantiate of C++ Nix 2.34" >&2; exit 1; }
root=$(mktemp -d)
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT
nix-instantiate --store "$root" release.nix -A native -A cross -A changed -A machine -A other -A recent > /dev/null
rm -rf goldens
mkdir goldens
(cd "$root/nix/store" && ls -d ./*.drv | cut -c3- | LC_ALL=C sort) > goldens/derivations.txt
for name in stdenv-final bootstrap-seed hello-raw hello-loud-2.12 only-x86-1 profile etc machine-OTHER melody-with-modules cc-wrapper-14.2 sets-1380 bright-1.0 quilt-1.0; do
  cp "$root"/nix/store/*-"$name".drv goldens/
done
chmod u+w goldens/*
