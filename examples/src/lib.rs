//! Unpublished: examples of the Tvix build flow.
