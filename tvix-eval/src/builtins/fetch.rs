//! Builtins that fetch from the network.
//!
//! Builtins that could only fail are absent, so that expressions which test for them (`builtins ?
//! fetchTree`) use a fallback: `fetchMercurial`, `getFlake`, `parseFlakeRef`, `flakeRefToString`,
//! and builtins that are experimental in C++ Nix.

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nixhash::{HashAlgo, HashEncoding, NixHash};
use nix_compat::store_path::StorePathName;

use super::{Def, def};
use crate::access::{checked_name, lossy};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{FetchRequest, resolve_pseudo_url};
use crate::interp::Interp;
use crate::paths;
use crate::source::Pos;
use crate::value::{Ref, Value};

pub(super) const BUILTINS: &[Def] = &[
    def("fetchurl", 1, fetch_url),
    def("fetchTarball", 1, fetch_tarball),
];

fn fetch_url<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    fetch(interp, args[0], pos, "fetchurl", ContentAddressMethod::Flat)
}

fn fetch_tarball<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let method = ContentAddressMethod::NixArchive;
    fetch(interp, args[0], pos, "fetchTarball", method)
}

/// The arguments of `fetchurl` and `fetchTarball`.
#[derive(Default)]
struct Arguments {
    url: Option<String>,
    name: Option<Vec<u8>>,
    sha256: Option<NixHash>,
}

fn arguments<'h>(interp: &Interp<'h>, arg: Ref<'h>, pos: Pos, who: &str) -> Result<Arguments> {
    let mut arguments = Arguments::default();
    let url = "while evaluating the url we should fetch";
    let Value::Attrs(attrs) = interp.force_at(arg, pos)? else {
        let text = interp.expect_plain_string(arg, pos, url)?;
        arguments.url = Some(lossy(text.bytes));
        return Ok(arguments);
    };
    for (key, attr) in interp.by_name(attrs) {
        let text = |why| interp.expect_plain_string(attr.value, attr.pos, why);
        match key {
            b"url" => arguments.url = Some(lossy(text(url)?.bytes)),
            b"sha256" => {
                let text = text("while evaluating the sha256 of the content we should fetch")?;
                arguments.sha256 = Some(hash_or_zeros(interp, &lossy(text.bytes))?);
            }
            b"name" => {
                let text = text("while evaluating the name of the content we should fetch")?;
                arguments.name = Some(text.bytes.to_vec());
            }
            other => {
                let message = format!("unsupported argument '{}' to '{who}'", lossy(other));
                return Err(Error::new(ErrorKind::Other, message).at(pos));
            }
        }
    }
    if arguments.url.is_none() {
        return Err(Error::new(ErrorKind::Missing, "'url' argument required").at(pos));
    }
    Ok(arguments)
}

/// Parses a SHA-256. An empty text stands for a hash that is not known yet, and parses as zeroes.
fn hash_or_zeros(interp: &Interp<'_>, text: &str) -> Result<NixHash> {
    if text.is_empty() {
        let zeros = NixHash::Sha256([0; 32]);
        interp.warn(format!("found empty hash, assuming '{}'", sri(&zeros)));
        return Ok(zeros);
    }
    NixHash::parse_any(text, Some(HashAlgo::Sha256))
        .map_err(|error| Error::new(ErrorKind::Other, error.to_string()))
}

/// A hash in SRI form.
pub(super) fn sri(hash: &NixHash) -> String {
    format!("{}-{}", hash.algo(), hash.encode(HashEncoding::Base64))
}

fn fetch<'h>(
    interp: &Interp<'h>,
    arg: Ref<'h>,
    pos: Pos,
    who: &str,
    method: ContentAddressMethod,
) -> Result<Value<'h>> {
    let arguments = arguments(interp, arg, pos, who)?;
    let mut url = arguments.url.unwrap_or_default();
    let unpack = method == ContentAddressMethod::NixArchive;
    if unpack {
        url = resolve_pseudo_url(&url);
    }
    interp.check_uri(&url)?;
    let with_name = arguments.name.is_some();
    let name = match arguments.name {
        Some(name) if !name.is_empty() => name,
        None if unpack => b"source".to_vec(),
        _ => paths::base_name(url.as_bytes()).to_vec(),
    };
    let is_set = matches!(interp.force(arg)?, Value::Attrs(_));
    let name = name_of(&name, &url, who, is_set, with_name).map_err(|error| error.at(pos))?;
    if interp.world.settings.pure && arguments.sha256.is_none() {
        let message = format!("in pure evaluation mode, '{who}' requires a 'sha256' argument");
        return Err(Error::new(ErrorKind::Forbidden, message).at(pos));
    }
    let sha256 = arguments.sha256;
    let request = match unpack {
        true => FetchRequest::Tarball {
            url: url.clone(),
            sha256: sha256.clone(),
        },
        false => FetchRequest::File {
            url: url.clone(),
            sha256: sha256.clone(),
        },
    };
    let (path, fetched) = interp.fetch(&name, request)?;
    if let Some(wanted) = sha256
        && wanted != fetched.sha256
    {
        let got = &fetched.sha256;
        // In the form of C++ Nix, and in the form that is accepted everywhere.
        let message = format!(
            "hash mismatch in file downloaded from '{url}':\n  specified: {} ({})\n  got:       {} ({})",
            wanted.base32(),
            sri(&wanted),
            got.base32(),
            sri(got),
        );
        return Err(Error::new(ErrorKind::Build, message).at(pos));
    }
    Ok(Value::String(interp.store_path_string(&path)))
}

fn name_of(
    name: &[u8],
    url: &str,
    who: &str,
    is_set: bool,
    with_name: bool,
) -> Result<StorePathName> {
    checked_name(name).map_err(|error| {
        let advice = if with_name {
            format!("Please change the value for the 'name' attribute passed to '{who}', so that it can create a valid store path.")
        } else if is_set {
            format!("Please add a valid 'name' attribute to the argument for '{who}', so that it can create a valid store path.")
        } else {
            format!("Please pass an attribute set with 'url' and 'name' attributes to '{who}',  so that it can create a valid store path.")
        };
        Error::new(
            ErrorKind::Other,
            format!("invalid store path name when fetching URL '{url}': {error}. {advice}"),
        )
    })
}
