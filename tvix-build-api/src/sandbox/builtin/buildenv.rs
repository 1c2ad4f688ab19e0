//! `builtin:buildenv`: a tree of symlinks to the files of several packages, as in the profiles of
//! `nix-env`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use super::task::{Complaint, Task};

/// Priority of the first propagated package; these come after all others.
const FIRST_PROPAGATED: i64 = 1000;

/// Files that are useless in a profile, or would only collide.
const LEFT_OUT: [&str; 7] = [
    "/propagated-build-inputs",
    "/nix-support",
    "/perllocal.pod",
    "/info/dir",
    "/log",
    "/manifest.nix",
    "/manifest.json",
];

pub(super) fn run(task: &Task) -> Result<(), Complaint> {
    let output = task.output()?;
    let mut packages = packages(task.attribute("derivations")?)?;
    let manifest = task.attribute("manifest")?;
    packages.sort();
    fs::create_dir(output)?;
    let mut profile = Profile {
        output,
        priorities: HashMap::new(),
        done: HashSet::new(),
        propagated: BTreeSet::new(),
    };
    for (priority, package) in packages {
        profile.add(&package, priority)?;
    }
    let mut priority = FIRST_PROPAGATED;
    while !profile.propagated.is_empty() {
        for package in std::mem::take(&mut profile.propagated) {
            profile.add(&package, priority)?;
            priority += 1;
        }
    }
    Ok(symlink(manifest, output.join("manifest.nix"))?)
}

/// The active packages with their priorities. The text has the number of packages, and for each one
/// its active flag, its priority, the number of its paths, and the paths.
fn packages(text: &str) -> Result<Vec<(i64, PathBuf)>, Complaint> {
    let mut words = text.split_ascii_whitespace();
    let mut packages = Vec::new();
    while let Some(active) = words.next() {
        let mut number = || -> Result<i64, Complaint> {
            let word = words
                .next()
                .ok_or("the attribute 'derivations' ends too early")?;
            let parsed = word.parse::<i32>();
            Ok(parsed
                .map_err(|_| format!("'{word}' in 'derivations' is no number"))?
                .into())
        };
        let (priority, count) = (number()?, number()?);
        for _ in 0..count {
            let path = words
                .next()
                .ok_or("the attribute 'derivations' ends too early")?;
            if active != "false" {
                packages.push((priority, PathBuf::from(path)));
            }
        }
    }
    Ok(packages)
}

struct Profile<'p> {
    output: &'p Path,
    /// The priorities of the packages of existing links.
    priorities: HashMap<PathBuf, i64>,
    done: HashSet<PathBuf>,
    propagated: BTreeSet<PathBuf>,
}

impl Profile<'_> {
    fn add(&mut self, package: &Path, priority: i64) -> Result<(), Complaint> {
        if !self.done.insert(package.to_owned()) {
            return Ok(());
        }
        self.link_all(package, self.output, priority)?;
        match fs::read_to_string(package.join("nix-support/propagated-user-env-packages")) {
            Ok(text) => {
                let wanted = text.split([' ', '\n']).filter(|word| !word.is_empty());
                let wanted = wanted.map(PathBuf::from);
                self.propagated
                    .extend(wanted.filter(|path| !self.done.contains(path)));
                Ok(())
            }
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Links the entries of a package directory into a directory of the profile. The walk is not
    /// recursive, because packages determine the depth.
    fn link_all(&mut self, from: &Path, to: &Path, priority: i64) -> Result<(), Complaint> {
        let mut queue = vec![(from.to_owned(), to.to_owned(), priority)];
        while let Some((from, to, priority)) = queue.pop() {
            let entries = match fs::read_dir(&from) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    eprintln!(
                        "warning: not including '{}' in the user environment because it's not a \
                         directory",
                        from.display()
                    );
                    continue;
                }
                Err(error) => return Err(format!("'{}': {error}", from.display()).into()),
            };
            let mut names = Vec::new();
            for entry in entries {
                names.push(entry?.file_name());
            }
            names.sort();
            let mut below = Vec::new();
            for name in names {
                if !name.as_encoded_bytes().starts_with(b".") {
                    self.link(from.join(&name), to.join(&name), priority, &mut below)?;
                }
            }
            // A link that becomes a directory is filled before entries are added to it.
            queue.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn link(
        &mut self,
        source: PathBuf,
        target: PathBuf,
        priority: i64,
        below: &mut Vec<(PathBuf, PathBuf, i64)>,
    ) -> Result<(), Complaint> {
        let Ok(metadata) = fs::metadata(&source) else {
            eprintln!("warning: skipping dangling symlink '{}'", target.display());
            return Ok(());
        };
        let name = source.as_os_str().as_encoded_bytes();
        if LEFT_OUT.iter().any(|end| name.ends_with(end.as_bytes())) {
            return Ok(());
        }
        let there = fs::symlink_metadata(&target).map(|metadata| metadata.file_type());
        match there {
            Ok(kind) if kind.is_dir() && metadata.is_dir() => {
                below.push((source, target, priority));
                return Ok(());
            }
            Ok(kind) if kind.is_dir() => {
                return Err(format!(
                    "collision between non-directory '{}' and directory '{}'",
                    source.display(),
                    target.display()
                )
                .into());
            }
            Ok(_) if metadata.is_dir() => {
                // Two packages have this directory: it becomes a real directory, with links to the
                // entries of both.
                let other = target.canonicalize()?;
                if !other.is_dir() {
                    return Err(format!(
                        "collision between '{}' and non-directory '{}'",
                        source.display(),
                        other.display()
                    )
                    .into());
                }
                fs::remove_file(&target)?;
                DirBuilder::new().mode(0o755).create(&target)?;
                let before = self.priorities.get(&target).copied().unwrap_or_default();
                below.push((other, target.clone(), before));
                below.push((source, target, priority));
                return Ok(());
            }
            Ok(_) => {
                let before = self.priorities.get(&target).copied().unwrap_or_default();
                if before == priority {
                    return Err(format!(
                        "Unable to build profile. There is a conflict for the following \
                         files:\n\n  {}\n  {}",
                        fs::read_link(&target)?.display(),
                        source.display()
                    )
                    .into());
                }
                if before < priority {
                    return Ok(());
                }
                fs::remove_file(&target)?;
            }
            Err(_) => {}
        }
        symlink(&source, &target)?;
        self.priorities.insert(target, priority);
        Ok(())
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World(tempfile::TempDir);

    impl World {
        fn new(files: &[&str]) -> Self {
            let world = Self(tempfile::tempdir().unwrap());
            for file in files {
                let path = world.at(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, file).unwrap();
            }
            world
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn build(&self, derivations: &str) -> Result<(), Complaint> {
            let output = self.at("out");
            let _ = fs::remove_dir_all(&output);
            let root = self.0.path().to_str().unwrap();
            run(&Task::with(&[
                ("derivations", &derivations.replace('@', root)),
                ("manifest", "/manifest"),
                ("out", output.to_str().unwrap()),
            ]))
        }

        fn link(&self, path: &str) -> String {
            let target = fs::read_link(self.at("out").join(path)).unwrap();
            target
                .strip_prefix(self.0.path())
                .unwrap_or(&target)
                .display()
                .to_string()
        }
    }

    #[test]
    fn directories_merge_and_files_have_priorities() {
        let world = World::new(&[
            "a/bin/a",
            "a/share/x",
            "b/bin/b",
            "b/bin/a",
            "c/lib/only",
            "a/.hidden",
            "a/nix-support/propagated-user-env-packages",
            "d/bin/d",
            "off/bin/off",
            "a/log/x",
        ]);
        let wanted = world.at("d").display().to_string();
        fs::write(
            world.at("a/nix-support/propagated-user-env-packages"),
            format!("{wanted}\n"),
        )
        .unwrap();
        world
            .build("true 5 1 @/a true 6 2 @/b @/c false 1 1 @/off")
            .unwrap();
        assert_eq!(world.link("bin/a"), "a/bin/a");
        assert_eq!(world.link("bin/b"), "b/bin/b");
        assert_eq!(world.link("bin/d"), "d/bin/d");
        assert_eq!(world.link("lib"), "c/lib");
        assert_eq!(world.link("share"), "a/share");
        assert_eq!(world.link("manifest.nix"), "/manifest");
        for gone in [".hidden", "nix-support", "log", "bin/off"] {
            assert!(!world.at("out").join(gone).exists(), "{gone}");
        }
    }

    #[test]
    fn collisions_are_told() {
        let world = World::new(&["a/bin/x", "b/bin/x", "c/bin"]);
        let error = world.build("true 5 2 @/a @/b").unwrap_err().to_string();
        assert!(
            error.contains("/a/bin/x") && error.contains("/b/bin/x"),
            "{error}"
        );
        assert!(world.build("true 5 2 @/a @/c").is_err());
        assert!(world.build("true 5 2 @/a").is_err());
        assert!(world.build("true x 0").is_err());
        world.build("true 5 1 @/a true 4 1 @/b").unwrap();
        assert_eq!(world.link("bin/x"), "b/bin/x");
    }
}
