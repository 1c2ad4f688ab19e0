# Platforms, as large sets that are elaborated from a few words.
{ }:
let
  inherit (builtins) all any elem isAttrs isList listToAttrs mapAttrs;
  cpus = mapAttrs (name: cpu: { inherit name; } // cpu) {
    x86_64 = { bits = 64; family = "x86"; order = "little"; };
    i686 = { bits = 32; family = "x86"; order = "little"; };
    aarch64 = { bits = 64; family = "arm"; order = "little"; };
    armv7l = { bits = 32; family = "arm"; order = "little"; version = "7"; };
    riscv64 = { bits = 64; family = "riscv"; order = "little"; };
    powerpc64 = { bits = 64; family = "power"; order = "big"; };
  };
  kernels = mapAttrs (name: kernel: { inherit name; } // kernel) {
    linux = { formats = [ "elf" ]; families = { }; };
    darwin = { formats = [ "macho" ]; families.bsd = true; };
    none = { formats = [ "elf" "macho" ]; families = { }; };
  };
  # Whether a set has everything that a pattern has.
  matches = pattern: value:
    if isAttrs pattern then isAttrs value && all (name: value ? ${name} && matches pattern.${name} value.${name}) (builtins.attrNames pattern)
    else if isList pattern then any (one: matches one value) pattern
    else pattern == value;
  patterns = {
    isX86 = { cpu.family = "x86"; };
    isArm = { cpu.family = "arm"; };
    is32bit = { cpu.bits = 32; };
    is64bit = { cpu.bits = 64; };
    isBigEndian = { cpu.order = "big"; };
    isLinux = { kernel.name = "linux"; };
    isDarwin = { kernel.name = "darwin"; };
    isBsd = { kernel.families.bsd = true; };
    isElf = { kernel.formats = [ [ "elf" ] [ "elf" "macho" ] ]; };
    isEmbedded = { kernel = { name = "none"; }; };
  };
  elaborate = given:
    let
      platform = {
        parsed = { cpu = cpus.${platform.cpu}; kernel = kernels.${platform.kernel}; };
        system = "${platform.cpu}-${platform.kernel}";
        short = builtins.replaceStrings [ "_" "-" ] [ "" "" ] platform.system;
        libc = if platform.isLinux then "glibc" else if platform.isDarwin then "system" else null;
        extension = { shared = if platform.isDarwin then ".dylib" else ".so"; static = ".a"; };
        emulates = other: elem other.cpu ([ platform.cpu ] ++ (if platform.isX86 && platform.is64bit then [ "i686" ] else [ ]));
        flags = map (name: "-D${name}") (builtins.filter (name: platform.${name}) (builtins.attrNames patterns));
      }
      // mapAttrs (_: pattern: matches pattern platform.parsed) patterns
      // given;
    in
    assert given ? cpu; platform;
in
rec {
  all = listToAttrs (map (given: { name = (elaborate given).system; value = elaborate given; }) [
    { cpu = "x86_64"; kernel = "linux"; }
    { cpu = "i686"; kernel = "linux"; }
    { cpu = "aarch64"; kernel = "linux"; libc = "musl"; }
    { cpu = "aarch64"; kernel = "darwin"; }
    { cpu = "armv7l"; kernel = "none"; }
    { cpu = "riscv64"; kernel = "linux"; }
    { cpu = "powerpc64"; kernel = "linux"; }
  ]);
  local = all.x86_64-linux;
}
