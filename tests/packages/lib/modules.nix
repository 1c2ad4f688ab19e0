# Modules: options are declared once, defined wherever it suits, and merged by their types.
{ lib }:
rec {
  mkOption = { type ? lib.types.any, ... }@option: option // { inherit type; isOption = true; };
  mkIf = condition: content: { wrapper = "if"; inherit condition content; };
  mkMerge = contents: { wrapper = "merge"; inherit contents; };
  mkOverride = priority: content: { wrapper = "override"; inherit priority content; };
  mkForce = mkOverride 50;
  mkDefault = mkOverride 1000;
  mkOrder = order: content: { wrapper = "order"; inherit order content; };
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;

  isWrapped = x: builtins.isAttrs x && x ? wrapper;

  # One definition becomes those that it stands for, each with its priority and order.
  unwrap = at: value:
    if !isWrapped value then [ (at // { inherit value; }) ]
    else {
      "if" = if value.condition then unwrap at value.content else [ ];
      merge = builtins.concatMap (unwrap at) value.contents;
      override = unwrap (at // { inherit (value) priority; }) value.content;
      order = unwrap (at // { inherit (value) order; }) value.content;
    }.${value.wrapper};

  mergeDefinitions = type: path: defs:
    let
      plain = builtins.concatMap (unwrap { priority = 100; order = 1000; }) defs;
      strongest = builtins.foldl' (best: def: if def.priority < best then def.priority else best) 9999 plain;
      kept = builtins.filter (def: def.priority == strongest) plain;
      sorted = builtins.sort (a: b: a.order < b.order) kept;
    in
    if plain == [ ] then throw "option '${lib.joinWith "." path}' is used but not defined"
    else type.merge path (map (def: lib.types.checked type path def.value) sorted);

  # Definitions below a wrapper are pushed down to the attributes.
  push = value:
    if !isWrapped value then [ value ]
    else if value.wrapper == "merge" then builtins.concatMap push value.contents
    else map (builtins.mapAttrs (name: content: value // { inherit content; })) (push value.content);

  normal = args: module:
    let
      loaded = if builtins.isPath module || builtins.isString module then import module else module;
      called = if builtins.isFunction loaded then loaded (wanted args loaded) else loaded;
      structured = called ? options || called ? config || called ? imports;
    in
    if structured then { imports = [ ]; options = { }; config = { }; freeform = null; } // called
    else { imports = [ ]; options = { }; config = called; freeform = null; };

  wanted = args: f:
    let asked = builtins.functionArgs f;
    in if asked == { } then args else args // builtins.mapAttrs (name: default: args.${name} or (args.config.arguments.${name})) (builtins.removeAttrs asked (builtins.attrNames args));

  closure = args: modules:
    builtins.concatMap (module: let it = normal args module; in closure args it.imports ++ [ it ]) modules;

  evaluate = { modules, prefix ? [ ], special ? { } }:
    let
      args = { inherit lib config options; } // special;
      all = closure args modules;
      definitions = builtins.concatMap (module: push module.config) all;
      freeform = lib.foldr (module: found: if module.freeform != null then module.freeform else found) null all;
      result = merged prefix (map (module: module.options) all) definitions;
      merged = path: declared: defined:
        let
          known = builtins.zipAttrsWith
            (name: declarations: at (path ++ [ name ]) declarations
              (builtins.concatMap (def: lib.optional (def ? ${name}) def.${name}) defined))
            declared;
          unknown = builtins.attrNames (builtins.removeAttrs (builtins.foldl' (a: b: a // b) { } defined) (builtins.attrNames known));
        in
        if unknown == [ ] then known
        else if freeform != null && path == prefix then
          known // lib.pickAttrs unknown (freeform.merge path (map (lib.pickAttrs unknown) defined))
        else throw "there is no option '${lib.joinWith "." (path ++ [ (builtins.head unknown) ])}'";
      at = path: declarations: defined:
        let first = builtins.head declarations;
        in
        if first.isOption or false then
          let
            value = mergeDefinitions first.type path (defined ++ lib.optional (first ? default) (mkOverride 1500 first.default));
          in
          if first ? apply then first.apply value else value
        else merged path declarations (builtins.concatMap push defined);
      config = result;
      options = builtins.zipAttrsWith (name: builtins.head) (map (module: module.options) all);
    in
    { inherit config options; };
}
