# What newer package sets do: directories listed by prefix, arguments that refer to the final ones,
# structured attributes, platforms as large sets, and sets of hundreds of attributes on top of each other.
{ lib, pkgs, shell ? "/bin/sh" }:
let
  inherit (builtins) attrNames attrValues concatMap filter foldl' functionArgs genList head intersectAttrs isAttrs isFunction length listToAttrs
    mapAttrs removeAttrs tail toJSON toString;
  platforms = import ./platforms.nix { };

  # A function that takes what it needs from a scope, and remembers how it was called.
  overridable = make: origArgs:
    let
      result = make origArgs;
      again = changed: overridable make (origArgs // (if isFunction changed then changed origArgs else changed));
      mirrored = f: { __functor = _: f; __functionArgs = functionArgs make; };
    in
    if isAttrs result then
      result // {
        override = mirrored again;
        ${if result ? overrideAttrs then "overrideAttrs" else null} = change: overridable (args: (make args).overrideAttrs change) origArgs;
      }
    else result;
  argsOf = f: if f ? __functionArgs then f.__functionArgs else functionArgs f;
  callWith = scope: file: args:
    let f = if isFunction file then file else import file;
    in overridable f (intersectAttrs (argsOf f) scope // args);

  # Attributes as a function of the final ones.
  make = input:
    let
      ofFinal = if isFunction input then input else (_: input);
      final = ofFinal (final // { finalPackage = package; });
      plain = removeAttrs final [ "meta" "passthru" "structured" "finalPackage" ];
      flags = filter (flag: flag != null) (map (name: if final ? ${name} then "--with-${name}=${toString final.${name}}" else null) [ "docs" "level" "prefix" ]);
      derived = derivation (
        { name = "${final.pname}-${final.version}"; system = platforms.local.system; builder = shell; args = [ "-e" ./build.sh ]; inherit flags; }
        // removeAttrs plain [ "pname" "docs" "level" "prefix" ]
        // (if final.structured or false then {
          __structuredAttrs = true;
          outputChecks.out = { maxSize = 1024 * 1024; disallowedRequisites = final.forbidden or [ ]; };
          env = { LANG = "C"; DEPTH = toString (length flags); ON = if final.docs or false then "1" else ""; };
        } else { })
      );
      package = derived // (final.passthru or { }) // {
        meta = { available = true; position = toString (builtins.unsafeGetAttrPos "pname" final != null); } // final.meta or { };
        overrideAttrs = change: make (final:
          let before = ofFinal final;
          in before // (if isFunction change then
            (let once = change before; in if isFunction once then change final before else once)
          else change));
      };
    in
    package;

  # Two levels of directories, listed at once.
  named = dir: foldl' (all: shard: all // mapAttrs (name: _: dir + "/${shard}/${name}/package.nix") (builtins.readDir (dir + "/${shard}"))) { } (attrNames (builtins.readDir dir));

  # Hundreds of names, many with the same first bytes.
  numbers = from: count: genList (n: from + n) count;
  many = prefix: from: count: listToAttrs (map (n: { name = "${prefix}${toString n}"; value = n; }) (numbers from count));
  layers = foldl' (set: n: set // { "entry-number-${toString (n * 7)}" = -n; } // many "x" (n * 40) 60) (many "entry-number-" 0 400) (numbers 0 24);
  wide = many "entry-number-" 200 500 // layers;
  narrow = removeAttrs wide (concatMap (n: [ "entry-number-${toString n}" "x${toString n}" "no-such-${toString n}" ]) (numbers 100 700));
  common = intersectAttrs (many "x" 900 300 // many "entry-number-" 0 120) wide;
  summary = set: toJSON (mapAttrs (name: value: if value < 0 then { negative = true; inherit value; } else value) set);

  scope = overlays: lib.fix (self: foldl' (set: overlay: set // overlay self set) (base self) overlays);
  base = self: { inherit lib make platforms; inherit (pkgs) hello gzip; call = callWith self; };
  packages = self: before: mapAttrs (_: path: self.call path { }) (named ./by-name);
  variants = self: before: listToAttrs (concatMap
    (platform: map
      (level: {
        name = "bright-${platform.short}-${toString level}";
        value = before.bright.override { inherit platform level; };
      })
      [ 1 2 3 ])
    (attrValues platforms.all));
  settings = (lib.evaluate { modules = [ ./options.nix ({ lib, ... }: { limits.open = lib.mkForce 2048; services.b.after = [ "a" ]; }) ]; }).config;
  own = scope [ packages variants ];
  changed = [
    (own.bright.overrideAttrs { extra = "set"; })
    (own.bright.overrideAttrs (before: { flags = before.flags or [ ] ++ [ "more" ]; pname = "brighter"; }))
    ((own.bridge.override (before: { depth = before.depth or 1 + 3; })).overrideAttrs (final: before: { version = "2"; note = "${final.version} of ${before.version}"; }))
    (own.quilt.override { bright = own.bright.override { level = 9; }; })
  ];
in
listToAttrs (genList (n: { name = "changed-${toString n}"; value = builtins.elemAt changed n; }) (length changed))
// removeAttrs own (attrNames (base own))
// {
  sets = make (final: {
    pname = "sets";
    version = toString (length (attrNames layers));
    structured = true;
    layers = summary layers;
    narrow = attrNames narrow;
    common = mapAttrs (_: toString) common;
    last = head (tail (attrValues wide));
    equal = layers == layers // { } && wide != layers && many "a" 0 300 // many "a" 0 300 == many "a" 0 300;
  });
  settings = make { pname = "settings"; version = "1"; text = toJSON settings; };
}
