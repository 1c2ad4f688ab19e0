{ lib, config, pkgs, ... }@all:
let
  inherit (lib) mkOption types;
in
{
  options.users = mkOption {
    default = { };
    type = types.attrsOf (types.submodule ({ name, ... }: {
      options = {
        uid = mkOption { type = types.int; };
        shell = mkOption { type = types.package; default = pkgs.shell; };
        groups = mkOption { type = types.listOf types.str; default = [ name ]; };
      };
      freeform = types.attrsOf types.str;
      config.note = "user ${name}";
    }));
  };
  config = {
    users.root = { uid = 0; colour = "red"; };
    users.anna = { uid = 1000; shell = pkgs.shellInteractive; groups = [ "wheel" "anna" ]; };
    etc.passwd.text = lib.joinWith "\n" (builtins.attrValues (builtins.mapAttrs
      (name: user: "${name}:x:${toString user.uid}:${lib.joinWith "," user.groups}:${user.note}:${user.shell}/bin/sh") config.users));
    packages = map (user: user.shell) (builtins.attrValues config.users);
  };
}
