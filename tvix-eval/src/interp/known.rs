//! Names that the evaluator itself uses.

use crate::symbol::{Symbol, Symbols};

macro_rules! known {
    ($($field:ident = $name:literal,)*) => {
        /// Names that the evaluator itself uses.
        pub(crate) struct Known {
            $(pub(crate) $field: Symbol,)*
        }

        impl Known {
            pub(crate) fn new(symbols: &Symbols<'_>) -> Self {
                Self { $($field: symbols.intern($name.as_bytes()),)* }
            }
        }
    };
}

known! {
    functor = "__functor",
    to_string = "__toString",
    out_path = "outPath",
    drv_path = "drvPath",
    kind = "type",
    name = "name",
    value = "value",
    system = "system",
    builder = "builder",
    args = "args",
    outputs = "outputs",
    output_name = "outputName",
    output_hash = "outputHash",
    output_hash_algo = "outputHashAlgo",
    output_hash_mode = "outputHashMode",
    structured_attrs = "__structuredAttrs",
    json = "__json",
    ignore_nulls = "__ignoreNulls",
    content_addressed = "__contentAddressed",
    impure = "__impure",
    all = "all",
    out = "out",
    drv_attrs = "drvAttrs",
    success = "success",
    right = "right",
    wrong = "wrong",
    file = "file",
    line = "line",
    column = "column",
    path = "path",
    prefix = "prefix",
    key = "key",
    operator = "operator",
    recurse = "recurseForDerivations",
    start_set = "startSet",
}
