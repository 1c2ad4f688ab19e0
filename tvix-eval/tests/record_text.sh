#!/bin/sh
# Records what nix-instantiate answers, for tests/recorded_text.rs. The file here is from C++ Nix 2.34.8; TVIX_PEER_NIX names another
# program to ask.
set -eu
cd "$(dirname "$0")/.."
rm -f tests/recorded_text.jsonl
TVIX_PEER_RECORD="$PWD/tests/recorded_text.jsonl" TVIX_PEER_CASES=60 TVIX_PEER_ERRORS=20 TVIX_PEER_SEED=2 \
    cargo test -p tvix-eval --features peers --test peers_text nix_agrees
