//! Files, imports and sources.

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nixhash::{HashAlgo, HashEncoding, NixHash};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;

use super::text::parse_hash;
use super::{Def, def};
use crate::access::copy::{Tree, source_name};
use crate::access::{Links, lossy};
use crate::builtins::derivation::imported_derivation;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::files::FileKind;
use crate::interp::Interp;
use crate::paths;
use crate::source::Pos;
use crate::syntax::Scope;
use crate::value::{ContextElement, ContextId, Ref, Value};

pub(super) const BUILTINS: &[Def] = &[
    def("filterSource", 2, filter_source),
    def("findFile", 2, find_file),
    def("hashFile", 2, hash_file),
    def("import", 1, import),
    def("path", 1, path),
    def("pathExists", 1, path_exists),
    def("readDir", 1, read_dir),
    def("readFile", 1, read_file),
    def("readFileType", 1, read_file_type),
    def("scopedImport", 2, scoped_import),
    def("storePath", 1, store_path),
    def("toFile", 2, to_file),
    def("toPath", 1, to_path),
];

fn import<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let path = interp.readable_path(args[0], None, pos)?;
    if let Some(derivation) = valid_derivation(interp, &path)? {
        return imported_derivation(interp, &derivation);
    }
    let (cell, file) = interp.import(&path)?;
    // The cell of a file that imports itself is under evaluation already.
    let is_new = !interp.is_under_evaluation(cell);
    match interp.force_at(cell, pos) {
        Ok(value) => Ok(value),
        Err(error) if !is_new => Err(error),
        Err(error) => Err(error.within(
            Pos::NONE,
            format!("while evaluating the file '{}':", lossy(file)),
        )),
    }
}

fn scoped_import<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let path = interp.readable_path(args[1], None, pos)?;
    if let Some(derivation) = valid_derivation(interp, &path)? {
        return imported_derivation(interp, &derivation);
    }
    let names = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.scopedImport",
    )?;
    let below = interp.scope.borrow().clone();
    let bound = interp
        .entries(names)
        .iter()
        .map(|attr| (attr.name, attr.value));
    interp.import_scoped(&path, &Scope::layered(below, bound))
}

/// The derivation of a `.drv` file in the store.
fn valid_derivation(interp: &Interp<'_>, path: &[u8]) -> Result<Option<StorePath>> {
    match interp.world.settings.store_dir.parse(path) {
        Ok(path) if path.is_derivation() && interp.is_valid(&path)? => Ok(Some(path)),
        _ => Ok(None),
    }
}

fn find_file<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let list = interp.expect_list(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.findFile",
    )?;
    let mut entries = Vec::with_capacity(list.items.len());
    for item in list.items {
        let attrs = interp.expect_attrs(
            item,
            pos,
            "while evaluating an element of the list passed to builtins.findFile",
        )?;
        let prefix = match attrs.get(interp.known.prefix) {
            Some(prefix) => interp
                .expect_plain_string(
                    prefix.value,
                    pos,
                    "while evaluating the `prefix` attribute of an element of the list passed to builtins.findFile",
                )?
                .bytes
                .to_vec(),
            None => Vec::new(),
        };
        let Some(path) = attrs.get(interp.known.path) else {
            return Err(interp
                .missing_attr(interp.known.path, Pos::NONE)
                .within(pos, "in an element of the __nixPath"));
        };
        let text = interp.coerce_cell(
            path.value,
            crate::eval::Coercion::STRICT,
            pos,
            "while evaluating the `path` attribute of an element of the list passed to builtins.findFile",
        )?;
        let path = interp.realise(text.context, text.bytes)?;
        entries.push((prefix, path));
    }
    let name = interp.expect_plain_string(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.findFile",
    )?;
    let found = interp.find_file(&entries, name.bytes)?;
    Ok(interp.path(&found))
}

fn path_exists<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    // Evaluated before it is coerced to a path, so that its own errors lack the frame of the
    // coercion.
    let must_be_dir = match interp.force(args[0])? {
        Value::String(text) => text.bytes.ends_with(b"/") || text.bytes.ends_with(b"/."),
        _ => false,
    };
    let links = match must_be_dir {
        true => Links::All,
        false => Links::Parents,
    };
    // A path that may not be seen counts as missing.
    let kind = match interp.readable_path(args[0], Some(links), pos) {
        Ok(path) => interp.visible_kind(&path)?,
        Err(error) if error.kind == ErrorKind::Forbidden => None,
        Err(error) => return Err(error),
    };
    Ok(Value::Bool(match kind {
        Some(kind) => !must_be_dir || kind == FileKind::Directory,
        None => false,
    }))
}

fn read_file<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let path = interp.readable_path(args[0], Some(Links::All), pos)?;
    let contents = interp.read_file(&path)?;
    if contents.contains(&0) {
        return Err(Error::new(
            ErrorKind::Other,
            format!(
                "the contents of the file '{}' cannot be represented as a Nix string",
                lossy(&path)
            ),
        ));
    }
    let context = interp.references_in(&path, &contents)?;
    Ok(interp.string(&contents, context))
}

fn read_dir<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let path = interp.readable_path(args[0], Some(Links::All), pos)?;
    let entries = interp
        .read_entries(&path)?
        .into_iter()
        .map(|(name, kind)| interp.attr(name, interp.text(kind.name())))
        .collect();
    Ok(interp.attrs(entries))
}

fn read_file_type<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let path = interp.readable_path(args[0], None, pos)?;
    Ok(interp.text(interp.kind_without_links(&path)?.name()))
}

fn hash_file<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let algo = interp.hash_algo(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.hashFile",
    )?;
    let path = interp.readable_path(args[1], Some(Links::All), pos)?;
    let contents = interp.read_file(&path)?;
    Ok(interp.text(NixHash::digest(algo, &contents).encode(HashEncoding::Base16)))
}

fn to_path<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let (path, context) = interp.coerce_path(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.toPath",
    )?;
    Ok(interp.string(paths::canonical(&path), context))
}

fn store_path<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    if interp.world.settings.pure {
        return Err(Error::new(
            ErrorKind::Forbidden,
            "'builtins.storePath' is not allowed in pure evaluation mode",
        ));
    }
    let (text, mentions) = interp.coerce_path(
        args[0],
        pos,
        "while evaluating the first argument passed to 'builtins.storePath'",
    )?;
    let dir = &interp.world.settings.store_dir;
    let mut path = interp.realised_path(&text, mentions)?;
    // A store object that is a link is not resolved; any other path is.
    if dir.parse(&path).is_err() {
        path = interp.resolve(&path, Links::All)?;
    }
    let Ok((object, _)) = dir.parse_below(&path) else {
        return Err(Error::new(
            ErrorKind::Other,
            format!("path '{}' is not in the Nix store", lossy(&path)),
        ));
    };
    if !interp.world.settings.read_only && !interp.is_valid(&object)? {
        return Err(Error::new(
            ErrorKind::Other,
            format!("path '{}' is not valid", dir.display(&object)),
        ));
    }
    let own = interp.contexts.single(ContextElement::Opaque(object));
    Ok(interp.string(&path, interp.contexts.union(own, mentions)))
}

fn to_file<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let name = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.toFile",
    )?;
    let contents = interp.expect_string(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.toFile",
    )?;
    let mut references = SortedSet::new();
    for element in interp.contexts.elements(contents.context) {
        match &*element {
            ContextElement::Opaque(path) => {
                references.insert(path.clone());
            }
            other => {
                return Err(Error::new(
                    ErrorKind::Other,
                    format!(
                        "files created by builtins.toFile may not reference derivations, but {} references {}",
                        lossy(name.bytes),
                        // Without the store directory.
                        interp.context_text(other).replace(
                            &format!("{}/", interp.world.settings.store_dir.as_str()),
                            ""
                        )
                    ),
                ));
            }
        }
    }
    let path = interp.add_text(name.bytes, contents.bytes, references)?;
    interp
        .world
        .texts
        .borrow_mut()
        .insert(path.clone(), contents.bytes);
    Ok(Value::String(interp.store_path_string(&path)))
}

fn filter_source<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let source = interp.coerce_path(
        args[1],
        pos,
        "while evaluating the second argument (the path to filter) passed to 'builtins.filterSource'",
    )?;
    let filter = interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.filterSource",
    )?;
    let mut added = SourceArguments::of(source);
    added.filter = Some(filter);
    added.add(interp, pos)
}

fn path<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let attrs = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the argument passed to 'builtins.path'",
    )?;
    let (mut source, mut name, mut filter, mut hash) = (None, None, None, None);
    let mut method = ContentAddressMethod::NixArchive;
    for (key, attr) in interp.by_name(attrs) {
        match key {
            b"path" => {
                source = Some(interp.coerce_path(
                    attr.value,
                    attr.pos,
                    "while evaluating the 'path' attribute passed to 'builtins.path'",
                )?);
            }
            b"name" => {
                let text = interp
                    .expect_plain_string(
                        attr.value,
                        attr.pos,
                        "while evaluating the `name` attribute passed to builtins.path",
                    )
                    .map_err(|error| error.of_type_at(attr.pos))?;
                name = Some(text.bytes.to_vec());
            }
            b"filter" => {
                filter = Some(
                    interp
                        .expect_function(
                            attr.value,
                            attr.pos,
                            "while evaluating the `filter` parameter passed to builtins.path",
                        )
                        .map_err(|error| error.of_type_at(attr.pos))?,
                );
            }
            b"recursive" => {
                let recursive = interp.expect_bool(
                    attr.value,
                    attr.pos,
                    "while evaluating the `recursive` attribute passed to builtins.path",
                )?;
                if !recursive {
                    method = ContentAddressMethod::Flat;
                }
            }
            b"sha256" => {
                let text = interp.expect_plain_string(
                    attr.value,
                    attr.pos,
                    "while evaluating the `sha256` attribute passed to builtins.path",
                )?;
                let text = lossy(text.bytes);
                hash = Some(parse_hash(&text, Some(HashAlgo::Sha256))?);
            }
            other => {
                return Err(Error::new(
                    ErrorKind::Other,
                    format!("unsupported argument '{}' to 'builtins.path'", lossy(other)),
                )
                .at(attr.pos));
            }
        }
    }
    let Some(source) = source else {
        return Err(Error::new(
            ErrorKind::Missing,
            "missing required 'path' attribute in the first argument to 'builtins.path'",
        )
        .at(pos));
    };
    let mut added = SourceArguments::of(source);
    if let Some(name) = name.filter(|name: &Vec<u8>| !name.is_empty()) {
        added.name = name;
    }
    (added.method, added.filter, added.hash) = (method, filter, hash);
    added.add(interp, pos)
}

/// The arguments of `path` and `filterSource`.
struct SourceArguments<'h> {
    name: Vec<u8>,
    path: Vec<u8>,
    mentions: ContextId,
    method: ContentAddressMethod,
    filter: Option<Value<'h>>,
    hash: Option<NixHash>,
}

impl<'h> SourceArguments<'h> {
    fn of((path, mentions): (Vec<u8>, ContextId)) -> Self {
        let path = paths::canonical(&path);
        Self {
            name: source_name(&path).to_vec(),
            path,
            mentions,
            method: ContentAddressMethod::NixArchive,
            filter: None,
            hash: None,
        }
    }

    fn add(self, interp: &Interp<'h>, pos: Pos) -> Result<Value<'h>> {
        let added = self
            .copy(interp, pos)
            .within_with(pos, || format!("while adding path '{}'", lossy(&self.path)))?;
        Ok(Value::String(interp.store_path_string(&added)))
    }

    fn copy(&self, interp: &Interp<'h>, pos: Pos) -> Result<StorePath> {
        let path = interp.realised_path(&self.path, self.mentions)?;
        let references = match interp.world.settings.store_dir.parse_below(&path) {
            Ok((object, _)) if !self.mentions.is_empty() => interp.references_of(&object)?,
            _ => None,
        };
        let references = references.unwrap_or_default();
        let (name, method) = (self.name.as_slice(), self.method);
        let expected = match &self.hash {
            Some(hash) => {
                let expected = interp.source_path(name, method, hash.clone(), &references)?;
                // A valid path need not be read again.
                if interp.references_of(&expected)?.is_some() {
                    interp.allow(&expected);
                    return Ok(expected);
                }
                Some(expected)
            }
            None => None,
        };
        let resolved = interp.resolve(&path, Links::All)?;
        let tree = Tree {
            name,
            path: &resolved,
            method,
            references,
            expected: expected
                .as_ref()
                .map(|expected| (expected, path.as_slice())),
        };
        let Some(filter) = self.filter else {
            return interp.add_tree(tree, None);
        };
        let mut keep = |child: &[u8], kind: FileKind| -> Result<bool> {
            let args = [
                interp.cell(interp.text(child)),
                interp.cell(interp.text(kind.name())),
            ];
            let context = "while evaluating the return value of the path filter function";
            match interp.call(filter, &args, pos)? {
                Value::Bool(keep) => Ok(keep),
                other => Err(interp.type_error("a Boolean", other).within(pos, context)),
            }
        };
        interp.add_tree(tree, Some(&mut keep))
    }
}

impl<'h> Interp<'h> {
    /// Parses the name of a hash algorithm.
    pub(crate) fn hash_algo(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        context: &'static str,
    ) -> Result<HashAlgo> {
        let name = self.expect_plain_string(cell, pos, context)?;
        let name = lossy(name.bytes);
        name.parse().map_err(|_| {
            Error::new(
                ErrorKind::Other,
                format!(
                    "unknown hash algorithm '{name}', expect 'blake3', 'md5', 'sha1', 'sha256', or 'sha512'"
                ),
            )
            .at(pos)
        })
    }
}
