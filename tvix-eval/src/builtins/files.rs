//! Files, imports and sources.

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nixhash::{HashAlgo, HashEncoding, NixHash};
use nix_compat::sorted::SortedSet;

use super::text::parse_hash;
use super::{Def, def};
use crate::access::{join, lossy};
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
    let path = interp.readable_path(args[0], pos, "while realising the context of a path")?;
    let cell = interp.import(&path)?;
    // A file that imports itself was being evaluated before.
    let is_new = !matches!(cell.get(), Value::Hole(_));
    match interp.force_at(cell, pos) {
        Ok(value) => Ok(value),
        Err(error) if !is_new => Err(error),
        Err(error) => Err(error.within(
            Pos::NONE,
            format!("while evaluating the file '{}':", lossy(&path)),
        )),
    }
}

fn scoped_import<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let names = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.scopedImport",
    )?;
    let path = interp.readable_path(args[1], pos, "while realising the context of a path")?;
    let below = interp.scope.borrow().clone();
    let bound = names.entries.iter().map(|attr| (attr.name, attr.value));
    interp.import_scoped(&path, &Scope::layered(below, bound))
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
    // It is forced before it is looked at as a path, so that its own errors have no frame of that.
    interp.force(args[0])?;
    let (text, mentions) =
        interp.coerce_path(args[0], pos, "while realising the context of a path")?;
    let must_be_dir = text.ends_with(b"/") || text.ends_with(b"/.");
    let path = interp.realised_path(&text, mentions)?;
    if interp.embedded(&path).is_some() {
        return Ok(Value::Bool(true));
    }
    let found = if must_be_dir {
        match interp.resolve_links(&path) {
            Ok(Some(resolved)) => interp.file_kind(&resolved),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        }
    } else {
        interp.file_kind(&path)
    };
    let kind = match found {
        Ok(kind) => kind,
        // What may not be seen is not there.
        Err(error) if error.kind == ErrorKind::Forbidden => None,
        Err(error) => return Err(error),
    };
    Ok(Value::Bool(match kind {
        Some(FileKind::Directory) => true,
        Some(_) => !must_be_dir,
        None => false,
    }))
}

fn read_file<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let path = interp.readable_path(args[0], pos, "while realising the context of a path")?;
    let contents = match interp.embedded(&path) {
        Some(text) => text.as_bytes().to_vec(),
        None => interp.read_file(&path)?,
    };
    if contents.contains(&0) {
        return Err(Error::new(
            ErrorKind::Other,
            format!(
                "the contents of the file '{}' cannot be represented as a Nix string",
                lossy(&path)
            ),
        ));
    }
    let context = interp.references_in(&path, &contents);
    Ok(interp.string(&contents, context))
}

fn read_dir<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let path = interp.readable_path(args[0], pos, "while realising the context of a path")?;
    let entries = interp
        .read_entries(&path)?
        .into_iter()
        .map(|(name, kind)| interp.attr(name, interp.text(kind.name())))
        .collect();
    Ok(interp.attrs(entries))
}

fn read_file_type<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let path = interp.readable_path(args[0], pos, "while realising the context of a path")?;
    match interp.file_kind(&path)? {
        Some(kind) => Ok(interp.text(kind.name())),
        None => Err(Error::new(
            ErrorKind::Io,
            format!("path '{}' does not exist", lossy(&path)),
        )),
    }
}

fn hash_file<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let algo = interp.hash_algo(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.hashFile",
    )?;
    let path = interp.readable_path(args[1], pos, "while realising the context of a path")?;
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
    let path = interp.realised_path(&text, mentions)?;
    let dir = &interp.world.settings.store_dir;
    let parsed = dir
        .parse_below(&path)
        .or_else(|_| match interp.resolve_links(&path) {
            Ok(Some(resolved)) => dir.parse_below(resolved.leak()),
            _ => dir.parse_below(b"/"),
        });
    let Ok((object, _)) = parsed else {
        return Err(Error::new(
            ErrorKind::Other,
            format!("path '{}' is not in the Nix store", lossy(&path)),
        ));
    };
    let local = interp.local(dir.display(&object).to_string().as_bytes());
    if let Ok(None) = interp.world.files.kind(paths::to_os(&local)) {
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
        match element {
            ContextElement::Opaque(path) => {
                references.insert(path);
            }
            other => {
                return Err(Error::new(
                    ErrorKind::Other,
                    format!(
                        "files created by builtins.toFile may not reference derivations, but {} references {}",
                        lossy(name.bytes),
                        // Without the store's directory.
                        interp.context_text(&other).replace(
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
    let path = interp.readable_path(
        args[1],
        pos,
        "while evaluating the second argument (the path to filter) passed to 'builtins.filterSource'",
    )?;
    let filter = interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.filterSource",
    )?;
    let name = paths::base_name(&path).to_vec();
    add_path(
        interp,
        pos,
        &name,
        &path,
        ContentAddressMethod::NixArchive,
        Some(filter),
        None,
    )
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
                source = Some(interp.readable_path(
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
    let name = name.unwrap_or_else(|| paths::base_name(&source).to_vec());
    add_path(interp, pos, &name, &source, method, filter, hash.as_ref())
}

fn add_path<'h>(
    interp: &Interp<'h>,
    pos: Pos,
    name: &[u8],
    path: &[u8],
    method: ContentAddressMethod,
    filter: Option<Value<'h>>,
    hash: Option<&NixHash>,
) -> Result<Value<'h>> {
    let resolved_parent = interp.resolve_existing(paths::dir_name(path))?;
    let root = match paths::base_name(path) {
        b"" => resolved_parent,
        base => join(&resolved_parent, base),
    };
    let mut keep = |child: &[u8], kind: FileKind| -> Result<bool> {
        let Some(filter) = filter else {
            return Ok(true);
        };
        // The filter sees the path as it was given, not where links lead.
        let seen = match child.strip_prefix(root.as_slice()) {
            Some(rest) => [path, rest].concat(),
            None => child.to_vec(),
        };
        let args = [
            interp.cell(interp.text(&seen)),
            interp.cell(interp.text(kind.name())),
        ];
        let context = "while evaluating the return value of the path filter function";
        match interp.call(filter, &args, pos)? {
            Value::Bool(keep) => Ok(keep),
            other => Err(interp.type_error("a Boolean", other).within(pos, context)),
        }
    };
    let store_path = match filter {
        Some(_) => interp.add_tree(name, path, method, Some(&mut keep), hash),
        None => interp.add_tree(name, path, method, None, hash),
    }
    .within_with(pos, || format!("while adding path '{}'", lossy(path)))?;
    Ok(Value::String(interp.store_path_string(&store_path)))
}

impl<'h> Interp<'h> {
    /// A hash algorithm by its name.
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

    /// What a file of the store refers to, of the paths that this evaluation knows.
    fn references_in(&self, path: &[u8], contents: &[u8]) -> ContextId {
        let dir = &self.world.settings.store_dir;
        if !path.starts_with(dir.as_str().as_bytes()) {
            return ContextId::EMPTY;
        }
        let mut found = Vec::new();
        let prefix = dir.as_str().as_bytes();
        for at in memchr::memmem::find_iter(contents, prefix) {
            let rest = &contents[at..];
            let end = rest[prefix.len()..]
                .iter()
                .skip(1)
                .position(|byte| !is_name_byte(*byte))
                .map_or(rest.len(), |end| prefix.len() + 1 + end);
            if let Ok(object) = dir.parse(&rest[..end]) {
                found.push(ContextElement::Opaque(object));
            }
        }
        if found.is_empty() {
            return ContextId::EMPTY;
        }
        self.contexts.of(found)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte)
}
