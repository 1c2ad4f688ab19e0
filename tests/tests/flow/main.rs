//! The whole flow, arrow by arrow: each line of the diagram (`tvix-build-flow.puml`) has a test
//! named after it.
//!
//! | arrow | test |
//! |---|---|
//! | `User-->CLI: User initiates build` | [`user::user_initiates_build`] |
//! | `CLI-->Coord: CLI invokes coordinator` | [`user::cli_invokes_coordinator`] |
//! | `Coord-->Eval: Sends message to start evaluation of … (path lookup) with attribute` | [`evaluation::coordinator_starts_evaluation_with_path_lookup_and_attribute`] |
//! | `Coord<--Eval: Yields derivations to be built` | [`evaluation::evaluator_yields_derivations_while_it_still_evaluates`] |
//! | its note: import from derivation is fed back | [`evaluation::import_from_derivation_is_fed_back_into_the_evaluator`], [`evaluation::imports_wait_side_by_side`] |
//! | its note: a regular build is not | [`evaluation::fire_and_forget_is_not_fed_back`] |
//! | `loop while has more derivations` | [`store::has_more_derivations_loops`] |
//! | `Coord-->Store: Check if desired paths are in store` | [`store::coordinator_checks_if_desired_paths_are_in_store`] |
//! | `Coord<--Store: Success response` | [`store::store_has_path_success_response`] |
//! | `Coord-->Build: Request derivation to be built`, with a desired store | [`builds::coordinator_requests_derivation_to_be_built`] |
//! | `Coord<--Build: Fail response`, and its note | [`builds::build_failure_fail_response`] |
//! | `Build-->Store: Push outputs to store` | [`builds::builder_pushes_outputs_to_known_store`] |
//! | `Build<--Coord: Send success & pushed response` | [`builds::success_and_pushed_response`] |
//! | `Build<--Coord: Send success & not pushed response` | [`builds::success_and_not_pushed_response`] |
//! | `Coord<--Build: Stream build outputs` | [`builds::builder_streams_outputs`] |
//! | `Coord-->Store: Push outputs to store` | [`builds::coordinator_pushes_outputs_to_store`] |
//! | `CLI<--Coord: Respond success/fail` | [`user::coordinator_responds_success_or_fail`] |
//! | `User<--CLI: Exit success/fail` | [`user::user_gets_exit_code`] |
//!
//! Tests of order and streaming use handshakes between the evaluator and builders in memory: with a
//! wrong order they would wait for each other forever. Tests of outputs run real sandboxes on a
//! real store. No test depends on durations.
#![allow(clippy::unwrap_used)]

mod builds;
mod evaluation;
mod store;
mod user;
