a: [
  ./. ../x /a/./b/../c ~/x ./a.nix a/b a.b/c -x/y +x/y 1/2 ./.. ../..
  ./${a}/b ./x/${a}.nix /${a} a/${a}b/c/${a} ~/${a}/x
  <nixpkgs> <nixpkgs/lib>
  (a./b) (a.b.c /d) (1 /2) (a /b) (1 / 2)
]
