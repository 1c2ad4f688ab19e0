import ../../b.nix
