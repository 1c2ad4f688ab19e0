# From what a package says of itself to a derivation: names, outputs, dependencies by offset, checks, and what is passed through.
{ lib, config }:
stdenv:
let
  inherit (stdenv) platforms;

  # Which of a spliced package's incarnations is meant.
  pick = offset: dep:
    if dep == null then [ ]
    else if builtins.isList dep then builtins.concatMap (pick offset) dep
    else [ (dev (dep.spliced.${offset} or dep)) ];
  dev = dep: if lib.isDerivation dep && !(dep.outputSpecified or false) then dep.dev or dep.out or dep else dep;

  offsets = {
    depsBuildBuild = "buildBuild";
    nativeBuildInputs = "buildHost";
    depsBuildTarget = "buildTarget";
    depsHostHost = "hostHost";
    buildInputs = "hostTarget";
    depsTargetTarget = "targetTarget";
  };

  # Everything that is propagated, once, nearest first.
  propagated = attribute: deps:
    map (item: item.dep) (builtins.genericClosure {
      startSet = map (dep: { key = "${dep}"; inherit dep; }) deps;
      operator = item: map (dep: { key = "${dep}"; inherit dep; }) (item.dep.${attribute} or [ ]);
    });

  problems = attrs: meta:
    lib.optional (meta.broken or false) "is marked as broken"
    ++ lib.optional (!(config.allowClosed or false) && !(builtins.all (l: l.free) (lib.toList (meta.license or [ ])))) "has a license that is not free"
    ++ lib.optional (meta ? platforms && !builtins.elem platforms.host.system meta.platforms) "is not for ${platforms.host.system}"
    ++ lib.optional (meta ? insecure && !builtins.elem attrs.pname (config.permitted or [ ])) "is insecure: ${meta.insecure}";

  make = given:
    let
      final = attrs // {
        finalPackage = package;
      };
      attrs = if builtins.isFunction given then given final else given;
      package = instantiate given attrs;
    in
    package;

  instantiate = given: attrs:
    let
      name =
        if attrs ? name then attrs.name
        else "${attrs.pname}${lib.optionalText (platforms.host.system != platforms.build.system && !(attrs.plain or false)) "-${platforms.host.config}"}-${attrs.version}";
      meta = { inherit name; position = attrs.position or null; } // attrs.meta or { };
      found = problems (attrs // { pname = attrs.pname or name; }) meta;
      own = builtins.removeAttrs attrs ([ "meta" "passthru" "plain" "position" "finalPackage" "checkInputs" "env" "propagatedInputs" ] ++ builtins.attrNames offsets);
      checked = attrs.doCheck or false && lib.systems.canRun platforms.build platforms.host;
      inputs = builtins.mapAttrs (kind: offset: pick offset (attrs.${kind} or [ ] ++ lib.optionals (kind == "nativeBuildInputs" && checked) (attrs.checkInputs or [ ]))) offsets;
      handedOn = pick "hostTarget" (attrs.propagatedInputs or [ ]);
      outputs = attrs.outputs or [ "out" ];
      arguments = own // inputs // attrs.env or { } // {
        inherit name outputs;
        inherit (stdenv) system;
        inherit stdenv;
        builder = attrs.realBuilder or stdenv.shell;
        args = attrs.args or [ "-e" (attrs.builder or ./builder.sh) ];
        buildInputs = propagated "handedOn" (inputs.buildInputs ++ handedOn);
        propagatedBuildInputs = handedOn;
        userHook = config.userHook or null;
        __ignoreNulls = true;
        doCheck = checked;
        patches = attrs.patches or [ ];
        configureFlags = attrs.configureFlags or [ ]
          ++ lib.optionals (platforms.host.system != platforms.build.system) [ "--build=${platforms.build.config}" "--host=${platforms.host.config}" ];
        ${if builtins.length outputs > 1 then "setOutputFlags" else null} = attrs.setOutputFlags or true;
      };
      drv = derivation arguments;
      extra = attrs.passthru or { } // {
        inherit meta name handedOn;
        passthru = attrs.passthru or { };
        pname = attrs.pname or (builtins.parseDrvName name).name;
        version = attrs.version or (builtins.parseDrvName name).version;
        inputs = arguments;
        overrideAttrs = change:
          make (final:
            let
              before = if builtins.isFunction given then given final else given;
              changed = if builtins.isFunction change then change else _: change;
              once = changed final;
            in
            before // (if builtins.isFunction once then changed final before else changed before));
      };
      output = drv: drv // extra // { outputSpecified = true; };
      each = builtins.listToAttrs (map (name: { inherit name; value = output drv.${name}; }) outputs);
    in
    if found != [ ] then throw "package '${name}' ${builtins.head found}"
    else drv // extra // each // { all = map (name: each.${name}) outputs; };
in
make
