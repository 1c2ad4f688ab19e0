//! Writing data in the syntax of the language.

pub use crate::text::print::{write_attribute_name, write_string};
