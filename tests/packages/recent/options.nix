{ lib, config, ... }:
let inherit (lib) types; in
{
  options = {
    limits = {
      open = lib.mkOption { type = types.int; default = 1024; };
      share = lib.mkOption { type = types.nullOr types.int; default = null; };
    };
    services = lib.mkOption {
      default = { };
      type = types.attrsOf (types.submodule ({ name, config, ... }: {
        options = {
          command = lib.mkOption { type = types.str; default = "run-${name}"; };
          after = lib.mkOption { type = types.listOf types.str; default = [ ]; };
          text = lib.mkOption { type = types.lines; default = ""; };
        };
        config.text = "exec ${config.command}";
      }));
    };
    order = lib.mkOption { type = types.listOf types.str; default = [ ]; };
  };
  config = {
    services = builtins.listToAttrs (map (name: { inherit name; value.after = [ "base" ]; }) [ "a" "b" "c" "a-b" "a_b" "ab" ]);
    order = map (name: "${name}:${builtins.concatStringsSep "+" config.services.${name}.after}") (builtins.attrNames config.services);
    limits.share = config.limits.open / 2;
  };
}
