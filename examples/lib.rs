//! Examples of the Tvix build flow: see the files beside this one, and `cargo run -p tvix-examples --example`.
