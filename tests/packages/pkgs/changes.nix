# What is built from other packages of the set by changing them.
final: before: {
  shellInteractive = before.shell.override { interactive = true; };
  hello-loud = before.hello.overrideAttrs (old: { pname = old.pname + "-loud"; postInstall = (old.postInstall or "") + "\nshout"; });
  hello-next = before.hello.overrideAttrs (final: old: { version = "3.0"; });
  hello-raw = before.hello.overrideDerivation (old: { name = "hello-raw"; buildInputs = [ ]; extra = old.src; });
  hello-twice = (final.hello-loud.override { greeting = "twice"; }).overrideAttrs { stage = 2; };
  coreutils-small = before.coreutils.override (old: { features = old.features or [ ] ++ [ "single" ]; });
}
