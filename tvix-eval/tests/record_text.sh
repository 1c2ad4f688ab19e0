#!/bin/sh
# Records the answers of nix-instantiate for tests/recorded_text.rs. The committed file is from C++ Nix 2.34.8; TVIX_PEER_NIX names
# another program.
set -eu
cd "$(dirname "$0")/.."
rm -f tests/recorded_text.jsonl
TVIX_PEER_RECORD="$PWD/tests/recorded_text.jsonl" TVIX_PEER_CASES=60 TVIX_PEER_ERRORS=20 TVIX_PEER_SEED=2 \
    cargo test -p tvix-eval --test peers_text nix_agrees
