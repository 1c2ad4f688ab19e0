# Sets of packages for each version of an interpreter.
{ lib }:
final: before:
let
  modules = builtins.fromJSON (builtins.readFile ./melody.json);
  forVersion = interpreter: final.scopeOf (self:
    {
      recurse = true;
      inherit interpreter;
      buildModule = { name, version, needs ? [ ], ... }@attrs:
        final.make (builtins.removeAttrs attrs [ "needs" "since" "name" ] // {
          pname = "melody${interpreter.major}-${name}";
          inherit version;
          src = builtins.toFile "${name}.mel" ''
            module ${name}
            ${lib.joinWith "\n" (map (need: "import ${need}") needs)}
          '';
          nativeBuildInputs = [ final.melodyHook ];
          propagatedInputs = [ interpreter ] ++ map (need: self.${need}) needs;
          passthru = { inherit interpreter; isModule = true; };
          meta.broken = attrs.since or null != null && lib.strings.isNewer attrs.since interpreter.version;
        });
      with_ = select: final.buildEnv {
        name = "melody-with-modules";
        paths = [ interpreter ] ++ select self;
      };
    }
    // builtins.mapAttrs (name: module: self.buildModule (module // { inherit name; })) modules);
in
{
  melody1Modules = forVersion final.melody1;
  melody2Modules = forVersion final.melody2;
  melody3Modules = (forVersion final.melody3).extend (self: before: {
    extra = self.call ({ buildModule, interpreter }: buildModule {
      name = "extra";
      version = interpreter.version;
      needs = [ ];
    }) { };
  });
}
