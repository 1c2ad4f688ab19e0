let
  make = name: script: args: derivation ({
    inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ];
  } // args);
  floating = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  names = builtins.genList toString 40;
in rec {
  ok = make "ok" "echo a line; echo two >&2; echo ok > $out" { };
  two = make "two" "echo $ok > $out; echo dev > $dev" { inherit ok; outputs = [ "out" "dev" ]; };
  bad = make "bad" "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13; do echo line $i; done; exit 3" { };
  bad2 = make "bad2" "exit 1" { };
  dep = make "dep" "echo $bad > $out" { inherit bad; };
  dep2 = make "dep2" "echo $bad > $out" { inherit bad bad2; };
  top = make "top" "echo $dep > $out" { inherit dep ok; };
  miss = make "miss" "echo 1 > $out" { outputs = [ "out" "dev" ]; };
  killed = make "killed" "kill -9 $$; sleep 10" { };
  hash = make "hash" "echo hello > $out" {
    outputHash = "0000000000000000000000000000000000000000000000000000000000000000";
    outputHashAlgo = "sha256"; outputHashMode = "flat";
  };
  other = derivation { name = "other"; system = "riscv64-linux"; builder = "/bin/sh"; };
  feature = make "feature" "echo x > $out" { requiredSystemFeatures = [ "nope" ]; };
  forbidden = make "forbidden" "echo $ok > $out" { inherit ok; allowedReferences = [ ]; };
  unended = make "unended" "echo a; echo -n b >&2; exit 2" { };
  slow = make "slow" "echo begin; sleep 105; echo x > $out" { };
  unbuilt = make "unbuilt" "echo x > $out" { };
  random = make "random" "cat /proc/sys/kernel/random/uuid > $out" { };
  phase = make "phase" ''
    echo '@nix {"action":"setPhase","phase":"buildPhase"}' >&2
    echo '@nix { "action": "msg", "level": 1, "msg": "careful" }' >&2
    echo hi; echo ok > $out
  '' { };
  phase2 = make "phase2" ''
    echo '@nix {"action":"setPhase","phase":"buildPhase"}' >&2; echo hi; echo ok > $out
  '' { };
  floating1 = make "floating1" "echo ca > $out" floating;
  floating2 = make "floating2" "echo $floating1 > $out" (floating // { inherit floating1; });
  structured = derivation {
    name = "structured"; system = "x86_64-linux"; builder = "/bin/sh";
    args = [ "-c" "[ -e .attrs.sh ] && [ -e .attrs.json ] && echo there; exit 4" ];
    __structuredAttrs = true; list = [ 1 2 ];
  };
  graph = make "graph" "while read -r line; do echo $line; done < graph; echo x > $out" {
    exportReferencesGraph = [ "graph" two ];
  };
  ifd = make "ifd-${import imported}" "echo > $out" { };
  imported = make "imported" "echo '\"x\"' > $out" { };
  shared = make "shared" "read -r id < /proc/sys/kernel/random/uuid; echo id $id; sleep 3; echo ends; echo > $out" { };
  many = make "many" "echo $all > $out" {
    all = map (name: make "one-${name}" "echo $dep > $out" { dep = make "dep-${name}" "echo ${name} > $out" { }; }) names;
  };
}
