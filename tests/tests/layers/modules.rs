//! The graph of modules in a crate, from the paths in its sources that start with `crate`, `super` or
//! `self`. Items that a module re-exports count as the module that defines them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module, as the names on the way to it.
type Module = Vec<String>;

/// The modules with their sources, without comments and unit tests.
struct Sources {
    modules: BTreeMap<Module, String>,
    /// For each module and re-exported name, the path that it stands for.
    exports: BTreeMap<(Module, String), Vec<String>>,
}

/// Sets of modules in one parent that depend on each other, with the path of the parent.
pub fn cycles(directory: &Path) -> BTreeSet<(String, BTreeSet<String>)> {
    let mut sources = Sources {
        modules: BTreeMap::new(),
        exports: BTreeMap::new(),
    };
    read(directory, &Module::new(), &mut sources.modules);
    assert!(!sources.modules.is_empty(), "{}", directory.display());
    for (module, text) in &sources.modules {
        for (is_public, path) in paths(text) {
            if is_public && let Some(name) = path.last() {
                let key = (module.clone(), name.clone());
                sources.exports.insert(key, path);
            }
        }
    }
    let mut edges: BTreeMap<Module, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    let mut resolved = Vec::new();
    for (module, text) in &sources.modules {
        for (is_public, path) in paths(text) {
            if !is_public && let Some(target) = sources.resolve(module, &path, 0) {
                resolved.push((module, target));
            }
        }
    }
    for (module, target) in &resolved {
        let common = module.iter().zip(target).take_while(|(a, b)| a == b);
        let common = common.count();
        if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
            let siblings = edges.entry(module[..common].to_vec()).or_default();
            siblings.entry(from).or_default().insert(to);
        }
    }
    let mut cycles = BTreeSet::new();
    for (parent, siblings) in &edges {
        for module in siblings.keys().copied() {
            let below = reachable(siblings, module);
            let mutual = below
                .iter()
                .filter(|other| reachable(siblings, other).contains(module))
                .map(|other| (*other).to_owned());
            let mutual: BTreeSet<String> = mutual.collect();
            if !mutual.is_empty() {
                let parent = parent.iter().map(String::as_str);
                let parent: Vec<_> = std::iter::once("crate").chain(parent).collect();
                cycles.insert((parent.join("::"), mutual));
            }
        }
    }
    cycles
}

fn reachable<'e>(edges: &BTreeMap<&'e str, BTreeSet<&'e str>>, from: &str) -> BTreeSet<&'e str> {
    let mut found = BTreeSet::new();
    let mut pending = vec![from];
    while let Some(module) = pending.pop() {
        for next in edges.get(module).into_iter().flatten() {
            if found.insert(*next) {
                pending.push(next);
            }
        }
    }
    found
}

fn read(directory: &Path, parent: &Module, found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut module = parent.clone();
        if path.is_dir() {
            module.push(name);
            read(&path, &module, found);
        } else if path.extension().is_some_and(|it| it == "rs") && name != "tests" {
            if !["mod", "lib", "main"].contains(&name.as_str()) {
                module.push(name);
            }
            found.insert(module, code(&fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The text before the unit tests, which are last in a file, without comments.
fn code(text: &str) -> String {
    let is_test = |line: &&str| line.starts_with("mod tests {");
    let lines = text.lines().take_while(|line| !is_test(line));
    let code = lines.map(|line| line.split("//").next().unwrap_or_default());
    code.collect::<Vec<_>>().join("\n")
}

/// The paths in `text`: those of `use`, and others that start with `crate` or `super`. The flag says
/// that the path is re-exported.
fn paths(text: &str) -> Vec<(bool, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        let (is_public, tree) = match trimmed.strip_prefix("use ") {
            Some(tree) => (false, tree),
            None => match trimmed.split_once(" use ") {
                Some((visibility, tree)) if visibility.starts_with("pub") => (true, tree),
                _ => {
                    rest.push_str(line);
                    rest.push('\n');
                    continue;
                }
            },
        };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            tree.push_str(lines.next().unwrap());
        }
        let tree = tree.split(';').next().unwrap_or_default();
        let flat = flatten(tree).into_iter();
        found.extend(flat.map(|path| (is_public, path)));
    }
    for start in ["crate::", "super::"] {
        for (index, _) in rest.match_indices(start) {
            if rest[..index].ends_with([':', '$', '_']) {
                continue;
            }
            let is_path = |it: char| it.is_alphanumeric() || it == '_' || it == ':';
            let end = rest[index..].find(|it| !is_path(it));
            let path = &rest[index..end.map_or(rest.len(), |end| index + end)];
            found.push((false, names(path)));
        }
    }
    found
}

fn names(path: &str) -> Vec<String> {
    let path = path.split(" as ").next().unwrap_or_default();
    let names = path.split("::").map(str::trim);
    let names = names.filter(|name| !name.is_empty() && *name != "self");
    names.map(str::to_owned).collect()
}

/// The paths of a tree such as `a::{b, c::{d, e}}`.
fn flatten(tree: &str) -> Vec<Vec<String>> {
    let Some((start, inner)) = tree.split_once('{') else {
        return vec![names(tree)];
    };
    let inner = &inner[..inner.rfind('}').unwrap()];
    let mut depth = 0;
    let parts = inner.split(|it| {
        depth += i32::from(it == '{') - i32::from(it == '}');
        it == ',' && depth == 0
    });
    let mut found = Vec::new();
    for part in parts.filter(|part| !part.trim().is_empty()) {
        for path in flatten(part) {
            found.push(names(start).into_iter().chain(path).collect());
        }
    }
    found
}

impl Sources {
    /// The module of this crate that defines the item at the end of `path`.
    fn resolve(&self, from: &Module, path: &[String], depth: u32) -> Option<Module> {
        let child = |module: &Module, name: &String| {
            let module: Module = module.iter().chain([name]).cloned().collect();
            self.modules.contains_key(&module).then_some(module)
        };
        let mut module = from.clone();
        let mut path = path.iter().peekable();
        if path.next_if(|name| *name == "crate").is_some() {
            module.clear();
        } else if path.peek().is_some_and(|name| *name == "super") {
            while path.next_if(|name| *name == "super").is_some() {
                module.pop();
            }
        } else {
            child(&module, path.peek()?)?;
        }
        while let Some(next) = path.peek().and_then(|name| child(&module, name)) {
            module = next;
            path.next();
        }
        let export = path.peek().map(|name| (module.clone(), (*name).clone()));
        let export = export.and_then(|key| self.exports.get(&key));
        match export {
            Some(path) if depth < 5 => self.resolve(&module, path, depth + 1).or(Some(module)),
            _ => Some(module),
        }
    }
}
