# Our own library, as a fixpoint so that overlays can extend it.
let
  basics = import ./basics.nix;
in
basics.makeExtensible (
  lib:
  let
    load = file: import file { inherit lib; };
  in
  basics
  // {
    strings = load ./strings.nix;
    sets = load ./sets.nix;
    custom = load ./custom.nix;
    systems = load ./systems.nix;
    types = load ./types.nix;
    modules = load ./modules.nix;
    licenses = import ./licenses.nix;

    inherit (lib.strings) joinWith optionalText hasPrefix hasSuffix lines indent escapeShell upper;
    inherit (lib.sets) recursiveMerge mapNames pickAttrs attrPath isDerivation collect;
    inherit (lib.custom) overridable callWith makeScope;
    inherit (lib.modules) mkIf mkMerge mkForce mkDefault mkOverride mkOrder mkBefore mkAfter mkOption evaluate;
  }
)
