{ lib, make, libc, interactive ? false, gzip ? null }:
make {
  pname = "shell${lib.optionalText interactive "-interactive"}";
  version = "5.2";
  buildInputs = [ libc ] ++ lib.optional interactive gzip;
  outputs = [ "out" "man" "doc" ];
  preConfigure = lib.optionalText interactive ''
    export READLINE=${gzip}/lib
      indented=''${READLINE:-none}
  '';
}
