//! An implementation of the Nix language, for the Tvix build flow and for embedding. Expressions
//! evaluate as in C++ Nix 2.34, and derivations are yielded as a stream.
//!
//! # Evaluate an expression
//!
//! An expression is evaluated on a thread of its own, and deserialised with Serde:
//!
//! ```
//! use tvix_eval::NixEvaluator;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let nix = NixEvaluator::default();
//! let doubled: Vec<i64> = nix.eval_to("map (x: x * 2) [ 1 2 3 ]")?;
//! assert_eq!(doubled, [2, 4, 6]);
//!
//! #[derive(serde::Deserialize)]
//! struct Package {
//!     name: String,
//!     version: Option<String>,
//! }
//! let hello: Package = nix.eval_to(r#"{ name = "hello-${toString 2}"; version = null; }"#)?;
//! assert_eq!((&*hello.name, hello.version), ("hello-2", None));
//! # Ok(())
//! # }
//! ```
//!
//! [`NixEvaluator::eval_to_async`] is the variant for async code.
//!
//! # Errors
//!
//! A [`Failure`] has a kind for programs, and a text for users:
//!
//! ```
//! # use tvix_eval::NixEvaluator;
//! use tvix_eval::error::ErrorKind;
//!
//! let failure = NixEvaluator::default().eval_to::<i64>("let x = 1; in x + y").unwrap_err();
//! assert_eq!(failure.kind, ErrorKind::Syntax);
//! assert_eq!(failure.message, "undefined variable 'y'");
//! assert!(failure.rendered.contains("1| let x = 1; in x + y"));
//! ```
//!
//! # Limits
//!
//! Set limits to evaluate untrusted expressions. [`NixEvaluator::with_cancellation`] takes a flag that
//! cancels evaluations.
//!
//! ```
//! # use tvix_eval::{Limits, NixEvaluator};
//! # use tvix_eval::error::ErrorKind;
//! # use std::time::Duration;
//! let limits = Limits::default().with_time(Duration::from_secs(1)).with_memory(64 << 20);
//! let greedy = "let f = x: y: f (x ++ x) (builtins.length x); in f [ 1 ] 1";
//! let failure = NixEvaluator::default().with_limits(limits).eval_to::<i64>(greedy).unwrap_err();
//! assert!(matches!(failure.kind, ErrorKind::Limit | ErrorKind::Depth));
//! ```
//!
//! # Custom builtins and files
//!
//! ```
//! # use tvix_eval::NixEvaluator;
//! use tvix_eval::files::MemoryFiles;
//! use tvix_eval::native::Native;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let nix = NixEvaluator::default()
//!     .with_builtin(Native::of("upper", |text: String| Ok(text.to_uppercase())))
//!     .with_files(MemoryFiles::new([
//!         ("/lib/default.nix", "{ shout = text: builtins.upper text + \"!\"; }"),
//!         ("/lib/other.nix", "1"),
//!     ]))
//!     .with_search_path("lib", "/lib");
//! let shouted: String = nix.eval_to(r#"(import <lib>).shout "hello""#)?;
//! assert_eq!(shouted, "HELLO!");
//! # Ok(())
//! # }
//! ```
//!
//! [`native::Native::new`] makes builtins that work with values of the language, including
//! unevaluated ones.
//!
//! # Derivations
//!
//! As an [`Evaluator`](tvix_eval_api::Evaluator), it yields each derivation as soon as it is
//! instantiated, and requests builds that evaluation needs. A coordinator handles both: see the
//! example `build_hello`.
//!
//! ```
//! # use tvix_eval::NixEvaluator;
//! use futures::StreamExt;
//! use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource, Evaluator};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"{ hello = derivation { name = "hello"; system = "any"; builder = "/bin/sh"; }; }"#;
//! let mut request = EvalRequest::new(EvalSource::Expression {
//!     text: text.to_owned(),
//!     base: "/".into(),
//! });
//! request.attr_paths = vec!["hello".to_owned()];
//! let mut events = NixEvaluator::default().evaluate(request).await?;
//! let Some(Ok(EvalEvent::Derivation { path, .. })) = events.next().await else { panic!() };
//! let Some(Ok(EvalEvent::Root(root))) = events.next().await else { panic!() };
//! assert_eq!((root.name.as_str(), &root.wanted.drv_path), ("hello", &path));
//! # Ok(())
//! # }
//! ```
//!
//! # Fetching
//!
//! `fetchurl`, `fetchTarball`, `fetchGit` and URLs in the search path need a
//! [`Fetcher`](fetch::Fetcher), which [`NixEvaluator::with_fetcher`] sets. The crate `tvix-fetch` has one
//! for HTTP and Git with a cache on disk:
//!
//! ```
//! use tvix_eval::NixEvaluator;
//! use tvix_fetch::{CachingFetcher, FetchOptions};
//!
//! let nix = NixEvaluator::default().with_fetcher(CachingFetcher::new(FetchOptions::default()));
//! ```
//!
//! # Access to values
//!
//! [`NixEvaluator::run`] provides the [interpreter](interp::Interp) on its thread;
//! [`NixEvaluator::spawn`] does so with a stream of events, through which builds are requested.
//! Values borrow from the evaluation's heap and cannot leave it.
//!
//! # Which values stay
//!
//! Values that are not in use are freed only where this crate's code alone holds values: in streams
//! of derivations, and in texts and deserialised values that were asked for. While a function of the
//! embedder runs (a [`Native`](native::Native), or the work of [`NixEvaluator::run`]), nothing is
//! freed, so it may keep values anywhere: in a vector, a map or a closure, also while it waits for a
//! build.
//!
//! ```
//! use tvix_eval::native::Native;
//! use tvix_eval::source::Pos;
//! use tvix_eval::value::{Ref, Value};
//! # use tvix_eval::NixEvaluator;
//!
//! let calls = Native::new("calls", 2, |interp, args: &[Ref<'_>], pos: Pos| {
//!     let count = interp.expect_int(args[1], pos, "while counting")?;
//!     let function = interp.force(args[0])?;
//!     let mut results = Vec::new();
//!     for number in 0..count {
//!         let argument = interp.cell(Value::Int(number));
//!         results.push(interp.cell(interp.call(function, &[argument], pos)?));
//!     }
//!     Ok(interp.list(&results))
//! });
//! let nix = NixEvaluator::default().with_builtin(calls);
//! let texts: Vec<String> = nix.eval_to(r#"builtins.calls (n: "n${toString n}") 3"#).unwrap();
//! assert_eq!(texts, ["n0", "n1", "n2"]);
//! ```
//!
//! After it has returned, a function cannot have values: the compiler rejects it.
//!
//! ```compile_fail
//! use std::cell::Cell;
//! use tvix_eval::native::Native;
//! use tvix_eval::source::Pos;
//! use tvix_eval::value::{Ref, Value};
//!
//! thread_local! {
//!     static KEPT: Cell<Value<'static>> = const { Cell::new(Value::Null) };
//! }
//! Native::new("keep", 1, |interp, args: &[Ref<'_>], _: Pos| {
//!     let value = interp.force(args[0])?;
//!     KEPT.set(value);
//!     Ok(value)
//! });
//! ```
//!
//! A [`Held`] keeps a value alive wherever it is, by [`Interp::hold`](interp::Interp::hold).

mod access;
mod background;
mod builtins;
mod collect;
mod counting;
mod deep;
pub mod error;
mod eval;
mod evaluator;
pub mod files;
pub mod heap;
pub mod host;
pub mod interactive;
mod internal;
#[doc(hidden)]
pub mod internals;
pub mod interp;
mod ir;
pub mod limits;
pub mod literal;
mod machine;
pub mod native;
mod paths;
mod pretty;
mod print;
mod report;
pub mod search_path;
pub mod select;
mod settings;
pub mod source;
mod symbol;
mod syntax;
mod text;
pub mod valid_paths;
pub mod value;
pub mod world;

pub use collect::Held;
pub use eval::Coercion;
pub use evaluator::{Evaluation, Failure, NixEvaluator, PrintFormat, Printed};
pub use interp::Job;
pub use limits::Limits;
pub use pretty::PrettyOptions;
pub use tvix_eval_api::fetch;

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use nix_compat;
#[doc(no_inline)]
pub use tokio;
#[doc(no_inline)]
pub use tvix_eval_api;
