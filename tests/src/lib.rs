//! Unpublished: tests of the Tvix build flow.
