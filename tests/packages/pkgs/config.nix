# What the whole set can be told.
{ lib, config, ... }:
{
  options = {
    allowClosed = lib.mkOption { type = lib.types.bool; default = false; };
    permitted = lib.mkOption { type = lib.types.listOf lib.types.str; default = [ ]; };
    userHook = lib.mkOption { type = lib.types.nullOr lib.types.str; default = null; };
    doCheckByDefault = lib.mkOption { type = lib.types.bool; default = config.strict; };
    strict = lib.mkOption { type = lib.types.bool; default = false; };
  };
  freeform = lib.types.attrsOf lib.types.any;
}
