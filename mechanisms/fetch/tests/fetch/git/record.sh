#!/bin/sh
# Records in expected.jsonl what C++ Nix makes of cases.txt, for git_parity.rs: one line for each case, with its text, the value as JSON or
# null, and the error. What is here is from C++ Nix 2.34.8. TVIX_RECORD_NIX names the program.
set -eu
cd "$(dirname "$0")/../../.."
TVIX_RECORD_NIX="${TVIX_RECORD_NIX:-nix-instantiate}" cargo test -p tvix-eval --features fetch --test fetch record_git
