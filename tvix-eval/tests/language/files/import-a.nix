import ./import-b.nix
