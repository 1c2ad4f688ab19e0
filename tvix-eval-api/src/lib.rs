//! The Evaluator trait of the Tvix build flow, its events, and two evaluators that need no language.
