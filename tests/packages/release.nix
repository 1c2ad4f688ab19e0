# Everything that is compared with C++ Nix: a list of derivations by name.
let
  lib = import ./lib;
  pkgs = import ./pkgs { };
  arm = import ./pkgs { cross = "aarch64-linux"; };
  changed = import ./pkgs {
    config = { allowClosed = lib.mkForce true; userHook = "echo hooked"; some.other = 1; };
    overlays = [
      (final: before: { gzip = before.gzip.overrideAttrs (old: { version = "1.14"; }); })
      (final: before: { closed2 = final.closed.overrideAttrs (_: { name = "closed-2"; }); hello = before.hello.override { greeting = "hi"; }; })
    ];
  };
  whole = set: builtins.listToAttrs (map (drv: { name = builtins.unsafeDiscardStringContext (baseNameOf drv.drvPath); value = drv; }) (lib.collect 1 set));
in
{
  native = whole pkgs.own;
  cross = whole arm.own;
  changed = { inherit (changed) gzip hello closed closed2 editor; set = changed.melody3Modules.extra; };
  machine = import ./machine { inherit pkgs; };
  recent = import ./recent { inherit lib pkgs; };
  other = import ./machine {
    inherit pkgs;
    modules = [
      ({ lib, ... }: { name = "other"; services.web.port = lib.mkForce null; etc.motd.enable = false; })
      { packages = [ pkgs.editor pkgs.shellInteractive.man ]; users.anna.groups = lib.mkForce [ ]; }
    ];
  };
}
