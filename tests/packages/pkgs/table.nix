# The packages of table.toml.
{ lib }:
final: before:
let
  rows = (builtins.fromTOML (builtins.readFile ./table.toml)).package;
  one = row: final.call
    ({ make, fetchurl, config, pkgs }:
      make (self: {
        pname = row.name;
        inherit (row) version;
        src = fetchurl {
          urls = map (mirror: "${mirror}/${row.name}/${row.name}-${self.version}.tar.xz") [ "https://a.example.org" "https://b.example.org" ];
          sha256 = builtins.hashString "sha256" "${row.name} ${self.version}";
        };
        outputs = row.outputs or [ "out" ];
        nativeBuildInputs = map (name: pkgs.${name}) (row.native or [ ]);
        buildInputs = map (name: pkgs.${name}) (row.inputs or [ ]);
        propagatedInputs = map (name: pkgs.${name}) (row.propagated or [ ]);
        checkInputs = map (name: pkgs.${name}) (row.check or [ ]);
        doCheck = row ? check || config.doCheckByDefault;
        env = row.env or { };
        ${if row.structured or false then "__structuredAttrs" else null} = true;
        passthru.tests.version = self.finalPackage.version;
        meta = {
          license = lib.licenses.${row.license or "mit"};
          broken = row.broken or false;
          ${if row ? platforms then "platforms" else null} = row.platforms or [ ];
          description = ''
            ${row.name}, of the table:
              version ${row.version}
          '';
        };
      }))
    { pkgs = final // final.spliceable or { }; };
in
builtins.listToAttrs (map (row: { inherit (row) name; value = one row; }) rows)
