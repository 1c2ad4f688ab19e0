# The package set: for this system or, from this system, for another.
{ system ? "x86_64-linux", cross ? null, config ? { }, overlays ? [ ] }@args:
let
  lib = import ../lib;
  local = lib.systems.parse system;
  host = if cross == null then local else lib.systems.parse cross;
  settings = (lib.evaluate { modules = [ ./config.nix { inherit config; } ]; }).config;

  makePackages = { stdenv, build, target, platforms ? stdenv.platforms }:
    let
      context = {
        inherit lib stdenv platforms;
        config = settings;
        buildPackages = if build == null then own else build.own;
        targetPackages = if target == null then own else target.own;
      };
      base = self: context // {
        call = lib.callWith spliced;
        scopeOf = lib.makeScope spliced;
        inherit (self.stdenv) make;
      };
      files = final: before:
        builtins.listToAttrs (map
          (file: {
            name = lib.strings.removeSuffix ".nix" file;
            value = final.call (./by-name + "/${file}") { };
          })
          (builtins.attrNames (builtins.readDir ./by-name)));
      support = final: before: import ../support { inherit lib; } final;
      table = import ./table.nix { inherit lib; };
      own = lib.fix (lib.composeMany ([ support files table (import ./sets.nix { inherit lib; }) (import ./changes.nix) ] ++ overlays) base);
      spliced = import ./splice.nix { inherit lib; } { inherit own build target; };
    in
    own // {
      inherit own;
      outermost = if build == null then own else build.outermost;
      extended = overlay: import ./. (args // { overlays = overlays ++ [ overlay ]; });
    };
in
import ../stdenv/stages.nix {
  inherit lib local host makePackages;
  config = settings;
}
