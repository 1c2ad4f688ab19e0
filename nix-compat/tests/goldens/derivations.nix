# Derivations of every kind that the format knows. make-derivations.sh instantiates them with real
# Nix; the test rebuilds some of them in Rust and reads all of them.
let
  system = "x86_64-linux";
  drv = attrs: derivation ({ inherit system; builder = "/bin/sh"; } // attrs);
  sha256 = "sha256";
in
rec {
  plain = drv { name = "plain"; args = [ "-c" "echo hello > $out" ]; };
  escapes = drv {
    name = "escapes";
    quote = "a \"quoted\" \\ backslash";
    lines = "one\ntwo\r\n\ttabbed\n";
    dollar = "\${notInterpolated}";
    utf8 = "grüße";
    empty = "";
    yes = true;
    no = false;
    number = 42;
    list = [ "a" 1 [ ] [ "b" ] ];
  };
  multiple = drv { name = "multiple"; outputs = [ "out" "dev" "doc" ]; args = [ "-c" "true" ]; };
  devFirst = drv { name = "dev-first"; outputs = [ "dev" "out" ]; };
  uses = drv {
    name = "uses";
    inherit plain;
    dev = multiple.dev;
    doc = multiple.doc;
    text = builtins.toFile "text" "some text\n";
  };
  fixedFlat = drv {
    name = "fixed-flat";
    outputHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    outputHashAlgo = sha256;
    outputHashMode = "flat";
  };
  fixedRecursive = drv {
    name = "fixed-recursive";
    outputHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    outputHashAlgo = sha256;
    outputHashMode = "recursive";
  };
  fixedMd5 = drv {
    name = "fixed-md5";
    outputHash = "d41d8cd98f00b204e9800998ecf8427e";
    outputHashAlgo = "md5";
  };
  fixedSha1Recursive = drv {
    name = "fixed-sha1-recursive";
    outputHash = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    outputHashAlgo = "sha1";
    outputHashMode = "recursive";
  };
  fixedSha512 = drv {
    name = "fixed-sha512";
    outputHash = "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==";
    outputHashAlgo = null;
  };
  # Depends on fixed outputs, which are left out of its hash.
  usesFixed = drv { name = "uses-fixed"; inherit fixedFlat fixedRecursive fixedMd5 uses; };
  # Two inputs that differ in how they are fetched and not in what: equal modulo fixed outputs.
  mirrorA = drv { name = "mirror"; url = "a"; inherit (fixedFlat) outputHash outputHashAlgo; };
  mirrorB = drv { name = "mirror"; url = "b"; inherit (fixedFlat) outputHash outputHashAlgo; };
  usesMirrors = drv { name = "uses-mirrors"; inherit mirrorA mirrorB; };
  floating = drv {
    name = "floating";
    outputs = [ "out" "lib" ];
    __contentAddressed = true;
    outputHashAlgo = sha256;
    outputHashMode = "recursive";
  };
  deferred = drv { name = "deferred"; input = floating; lib = floating.lib; };
  deferredTwice = drv { name = "deferred-twice"; outputs = [ "out" "bin" ]; input = deferred; };
  structured = drv {
    name = "structured";
    __structuredAttrs = true;
    outputs = [ "out" "dev" ];
    nested = { list = [ 1 2 "three" ]; float = 1.5; null = null; };
  };
}
