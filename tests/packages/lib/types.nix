# Types of options: what they hold, and how several definitions become one.
{ lib }:
let
  make = name: { check, merge ? single, ... }@rest: rest // { inherit name check merge; isType = true; };
  single = path: values:
    if builtins.length values == 1 then builtins.head values
    else if builtins.all (value: value == builtins.head values) values then builtins.head values
    else throw "option '${lib.joinWith "." path}' has ${toString (builtins.length values)} definitions that differ";
in
rec {
  any = make "anything" { check = x: true; };
  bool = make "Boolean" { check = builtins.isBool; merge = path: builtins.any lib.id; };
  int = make "integer" { check = builtins.isInt; };
  port = make "port" { check = x: builtins.isInt x && x > 0 && x < 65536; };
  str = make "string" { check = x: builtins.isString x; };
  lines = make "lines" { check = builtins.isString; merge = path: lib.joinWith "\n"; };
  path = make "path" { check = x: builtins.substring 0 1 (toString x) == "/"; };
  package = make "package" { check = lib.isDerivation; };
  enum = allowed: make "one of ${lib.joinWith ", " (map toString allowed)}" { check = x: builtins.elem x allowed; };
  nullOr = type: make "null or ${type.name}" {
    check = x: x == null || type.check x;
    merge = path: values: if builtins.all (x: x == null) values then null else type.merge path (builtins.filter (x: x != null) values);
  };
  either = a: b: make "${a.name} or ${b.name}" {
    check = x: a.check x || b.check x;
    merge = path: values: if builtins.all a.check values then a.merge path values else b.merge path values;
  };
  listOf = type: make "list of ${type.name}" {
    check = builtins.isList;
    merge = path: values: lib.imap (i: x: type.merge (path ++ [ (toString i) ]) [ (checked type path x) ]) (builtins.concatLists values);
  };
  attrsOf = type: make "set of ${type.name}" {
    check = builtins.isAttrs;
    merge = path: values: builtins.mapAttrs
      (name: defs: lib.modules.mergeDefinitions type (path ++ [ name ]) defs)
      (builtins.zipAttrsWith (name: defs: defs) values);
  };
  functionTo = type: make "function to ${type.name}" {
    check = builtins.isFunction;
    merge = path: values: arg: type.merge path (map (f: f arg) values);
  };
  submodule = modules: make "submodule" {
    check = x: builtins.isAttrs x || builtins.isFunction x;
    merge = path: values: (lib.evaluate {
      modules = lib.toList modules ++ map (value: if builtins.isFunction value then value else { config = value; }) values;
      prefix = path;
      special.name = lib.last path;
    }).config;
  };
  checked = type: path: value:
    if type.check value then value
    else throw "option '${lib.joinWith "." path}' should be ${type.name}, but is ${builtins.typeOf value}";
}
