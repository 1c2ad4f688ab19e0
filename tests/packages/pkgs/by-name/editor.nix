{ lib, make, libc, melody2, melody2Modules, runCommand, writeText, buildEnv, fetchTree', withMelody ? true }:
let
  settings = writeText "settings.ini" (lib.strings.toIni { core = { tab = 8; wrap = true; paths = [ "/a" melody2 ]; }; ui.colour = "dark"; });
in
make {
  pname = "editor";
  version = "9.1.0";
  src = fetchTree' { owner = "editor"; repo = "editor"; rev = "v9.1.0"; hash = "sha256-BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA="; };
  buildInputs = [ libc ] ++ lib.optionals withMelody [ melody2 (melody2Modules.with_ (m: builtins.filter lib.isDerivation (lib.collect 0 m))) ];
  inherit settings;
  plugins = runCommand "plugins" { nativeBuildInputs = [ melody2 ]; } "mkdir $out";
  outputs = [ "out" "xdata" ];
}
