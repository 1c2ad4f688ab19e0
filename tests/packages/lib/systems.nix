{ lib }:
rec {
  vendors = { linux = "unknown"; darwin = "apple"; };
  parse = system:
    let
      found = builtins.match "([a-z0-9_]+)-([a-z]+)" system;
      cpu = builtins.elemAt found 0;
      kernel = builtins.elemAt found 1;
    in
    if found == null then throw "'${system}' is no system"
    else {
      inherit system cpu kernel;
      config = "${cpu}-${vendors.${kernel} or "none"}-${kernel}${lib.optionalText (kernel == "linux") "-gnu"}";
      is64bit = builtins.elem cpu [ "x86_64" "aarch64" "riscv64" ];
      isLinux = kernel == "linux";
      isDarwin = kernel == "darwin";
      isx86 = builtins.match "(x86_64|i[3-6]86)" cpu != null;
      __toString = self: self.config;
    };
  canRun = a: b: a.kernel == b.kernel && (a.cpu == b.cpu || (a.cpu == "x86_64" && b.cpu == "i686"));
}
