{ lib, make, fetchurl, shell, greeting ? "hello", platforms, ... }:
make (self: {
  pname = "hello";
  version = "2.12";
  src = fetchurl {
    url = "https://a.example.org/hello-${self.version}.tar.gz";
    hash = "sha256-${{
      "2.12" = "z1TlPh/PPBeEZcGVAIDnQ2qkEwDPFuALQcNXRXDtEwE=";
    }.${self.version} or "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}";
  };
  nativeBuildInputs = [ shell ];
  inherit greeting;
  doCheck = true;
  passthru.tests.run = builtins.isString self.finalPackage.name;
  meta = { description = "says ${greeting}"; license = with lib.licenses; [ mit gpl ]; platforms = [ "x86_64-linux" "aarch64-linux" ]; };
})
