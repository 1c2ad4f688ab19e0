//! Benchmarks of the Tvix build flow (unpublished).
