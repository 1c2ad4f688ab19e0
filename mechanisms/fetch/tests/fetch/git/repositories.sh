#!/bin/sh
# Makes the Git repositories of cases.txt in the current directory. Times and authors are fixed, so
# that commits and trees have the same hashes everywhere.
set -eu
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=somebody GIT_AUTHOR_EMAIL=somebody@example.org GIT_AUTHOR_DATE='1600000000 +0200'
export GIT_COMMITTER_NAME=somebody GIT_COMMITTER_EMAIL=somebody@example.org GIT_COMMITTER_DATE='1600000000 +0200'
export GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=protocol.file.allow GIT_CONFIG_VALUE_0=always
export GIT_CONFIG_KEY_1=advice.detachedHead GIT_CONFIG_VALUE_1=false
at() { GIT_COMMITTER_DATE="$1 +0200"; }
new() { git init -q --initial-branch=main "$@"; }
commit() { git -C "$1" add -A; git -C "$1" commit -q -m "${2:-c}"; }

# Two commits on main, one more on a branch, a tag of each kind, packed references.
new plain; echo 1 >plain/f; mkdir plain/d; echo x >plain/d/x; chmod +x plain/d/x; ln -s f plain/l; commit plain one
git -C plain tag light; git -C plain tag -a -m annotated annotated; git -C plain tag -a -m nested nested annotated 2>/dev/null
at 1600000100; echo 2 >plain/f; commit plain two
git -C plain tag both HEAD~1; git -C plain branch both
git -C plain checkout -q -b side; at 1600000200; echo 3 >plain/f; commit plain three
git -C plain checkout -q main
git clone -q --no-local plain packed; git -C packed branch -q side origin/side; git -C packed pack-refs --all --prune
git clone -q --no-local plain detached; git -C detached checkout -q HEAD~1
git clone -q --bare --no-local plain bare.git; git clone -q --bare --no-local plain bare-side.git; git -C bare-side.git symbolic-ref HEAD refs/heads/side
git clone -q --no-local --depth 1 "file://$PWD/plain" shallow
git clone -q --no-local plain base; git -C base worktree add -q ../worktree origin/side 2>/dev/null
ln -s plain linked; mkdir below; ln -s ../plain below/linked; ln -s . around

# No commit yet: nothing, and a file in the index.
new empty; new staged; echo s >staged/s; echo u >staged/u; git -C staged add s

# Changes in the working tree, of every kind.
git clone -q --no-local plain dirty; echo changed >dirty/f; rm dirty/l; echo n >dirty/new; echo u >dirty/untracked; git -C dirty add new
git clone -q --no-local plain intent; echo n >intent/new; git -C intent add -N new
git clone -q --no-local plain mode; chmod +x mode/f
git clone -q --no-local plain removed; git -C removed rm -q --cached f
git clone -q --no-local plain conflict; echo other >conflict/f; commit conflict other; git -C conflict merge -q origin/side >/dev/null 2>&1 || true
git clone -q --no-local plain typechange; rm typechange/f; ln -s d typechange/f; rm typechange/l; echo file >typechange/l
git clone -q --no-local plain touched; touch -d @1700000000 touched/f

# export-ignore: of a file, of a directory, of a pattern, taken back, in a nested file.
new attrs; mkdir -p attrs/d/e attrs/gone/deep; for f in a b.txt keep.txt d/a d/e/b.txt gone/deep/x d/hidden; do echo $f >attrs/$f; done
printf '*.txt export-ignore\nkeep.txt -export-ignore\ngone export-ignore\n' >attrs/.gitattributes; echo 'hidden export-ignore' >attrs/d/.gitattributes
commit attrs
git clone -q --no-local attrs attrs-dirty; echo more >attrs-dirty/a

# Patterns for directories: they apply in repositories with a working tree only.
new folders; mkdir -p folders/dir/sub folders/k/dir folders/only; for f in dir/x dir/sub/y k/dir/z only/q top; do echo $f >folders/$f; done
printf 'dir/ export-ignore\nonly/** export-ignore\n' >folders/.gitattributes; commit folders
git clone -q --bare --no-local folders folders.git

# Submodules in submodules, with relative URLs and a branch.
new leaf; echo leaf >leaf/leaf; commit leaf; git -C leaf checkout -q -b other; echo other >leaf/other; commit leaf other; git -C leaf checkout -q main
new middle; echo m >middle/m; commit middle; git -C middle submodule --quiet add ../leaf inside/leaf; commit middle sub
new outer; echo o >outer/o; commit outer; git -C outer submodule --quiet add ../middle sub/middle; git -C outer submodule --quiet add -b other ../leaf leaf
git -C outer submodule --quiet update --init --recursive; commit outer subs
git clone -q --no-local outer uninitialised
git clone -q --no-local outer partial; git -C partial submodule --quiet update --init
git clone -q --no-local outer recursive; git -C recursive submodule --quiet update --init --recursive
git clone -q --no-local outer changed; git -C changed submodule --quiet update --init --recursive; echo changed >changed/leaf/leaf
git clone -q --no-local outer ahead; git -C ahead submodule --quiet update --init --recursive; echo more >ahead/leaf/more; commit ahead/leaf more
git clone -q --bare --no-local outer outer.git
# One that is listed and not there, one that is there and not listed; an absolute URL.
new odd; echo o >odd/o; commit odd; git -C odd submodule --quiet add ../leaf leaf; printf '[submodule "not-there"]\n\tpath = not-there\n\turl = ../leaf\n' >>odd/.gitmodules
git -C odd update-index --add --cacheinfo "160000,$(git -C leaf rev-parse main),unlisted"; mkdir odd/unlisted; git -C odd add .gitmodules; git -C odd commit -q -m subs
new absolute; echo a >absolute/a; commit absolute; git -C absolute submodule --quiet add "$PWD/leaf" leaf; commit absolute subs
# Not listed at all; outside of the repository; the repository itself; not a repository; removed from the index.
new unlisted; echo u >unlisted/u; git -C unlisted add u; git -C unlisted update-index --add --cacheinfo "160000,$(git -C leaf rev-parse main),sm"; git -C unlisted commit -q -m c
new outside; echo o >outside/o; printf '[submodule "x"]\n\tpath = ../leaf\n\turl = ../leaf\n' >outside/.gitmodules; commit outside
new itself; echo i >itself/i; printf '[submodule "x"]\n\tpath = .\n\turl = ./\n' >itself/.gitmodules; commit itself
git clone -q --no-local outer broken; rm -rf broken/leaf; mkdir -p broken/leaf/.git
git clone -q --no-local outer pruned; git -C pruned submodule --quiet update --init --recursive; git -C pruned rm -q --cached leaf
new two; echo 2 >two/f; commit two; git -C two submodule --quiet add ./../leaf sm; commit two
new lost; echo l >lost/f; commit lost; git -C lost submodule --quiet add ../leaf sm; git -C lost config -f .gitmodules submodule.sm.url ../gone; commit lost
new self; echo s >self/f; commit self; git -C self submodule --quiet add ./ sub; commit self

# Git LFS: without a file of it, with a pointer, with something that is no pointer.
new lfs-none; echo x >lfs-none/x; commit lfs-none
new lfs-bad; echo '*.bin filter=lfs' >lfs-bad/.gitattributes; echo text >lfs-bad/a.bin; commit lfs-bad
new lfs; echo '*.bin filter=lfs' >lfs/.gitattributes; echo y >lfs/y
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 5\n' 7 >lfs/a.bin; commit lfs
git -C lfs remote add origin "file://$PWD/nowhere"

# Objects that are named by SHA-256.
new --object-format=sha256 sha256; echo 256 >sha256/f; commit sha256
