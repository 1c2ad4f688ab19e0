#!/bin/sh
# Records what nix-instantiate makes of the cases, for tests/language.rs. What is here is from C++ Nix 2.34.8, x86_64-linux. New cases alone
# are asked for; remove a topic's .jsonl to ask for all of them. TVIX_RECORD_NIX names the program, TVIX_RECORD_FILES where it sees the
# folder files/, in which it must be started, if that is elsewhere. The lines that messages show of C++ Nix's own file,
# derivation-internal.nix, are left out.
set -eu
cd "$(dirname "$0")/../.."
TVIX_RECORD_NIX="${TVIX_RECORD_NIX:-nix-instantiate}" cargo test -p tvix-eval --features peers --test language record
