# A machine, configured by modules, as one derivation.
{ pkgs, modules ? [ ] }:
let
  inherit (pkgs) lib;
  result = lib.evaluate {
    modules = [ ./base.nix ./services.nix ./users.nix ] ++ modules;
    special = { inherit pkgs; };
  };
in
result.config.build.machine // { inherit (result) config options; }
