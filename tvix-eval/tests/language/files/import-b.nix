import ./import-a.nix
