//! `derivation` and `derivationStrict`.

mod imported;
mod inputs;

mod strict;
mod wrapper;

use super::{Def, def};

pub(super) use imported::imported_derivation;

pub(super) const BUILTINS: &[Def] = &[
    def("derivation", 1, wrapper::derivation),
    def("derivationStrict", 1, strict::derivation_strict),
];
