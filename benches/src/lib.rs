//! Unpublished: benches of the Tvix build flow.
