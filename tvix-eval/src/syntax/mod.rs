//! From text to [`ir`](crate::ir).
