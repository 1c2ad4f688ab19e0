//! What comes from the network, and flakes: not there, and says so.

use super::{Def, def};
use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::source::Pos;
use crate::value::{Ref, Value};

macro_rules! unsupported {
    ($($function:ident = $name:literal,)*) => {
        pub(super) const BUILTINS: &[Def] = &[$(def($name, 1, $function),)*];

        $(fn $function<'h>(_: &Interp<'h>, _: &[Ref<'h>], _: Pos) -> Result<Value<'h>> {
            Err(Error::new(
                ErrorKind::Unsupported,
                concat!("'builtins.", $name, "' is not supported by this evaluator"),
            ))
        })*
    };
}

unsupported! {
    fetch_url = "fetchurl",
    fetch_tarball = "fetchTarball",
    fetch_git = "fetchGit",
    fetch_mercurial = "fetchMercurial",
    fetch_tree = "fetchTree",
    fetch_closure = "fetchClosure",
    get_flake = "getFlake",
    parse_flake_ref = "parseFlakeRef",
    flake_ref_to_string = "flakeRefToString",
}
