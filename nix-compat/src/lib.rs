//! Nix data formats: store paths, hashes, derivations, NAR, narinfo. Pure: no policy, no async
//! runtime.
//!
//! Every value is checked when it is made: a [`store_path::StorePath`] has a valid hash part and
//! name, and a [`derivation::Derivation`] that was parsed serialises to the same bytes. Nothing
//! here accesses a store or a file system, or starts a thread.
//!
//! # Compute the output path of a derivation
//!
//! ```
//! use nix_compat::derivation::DerivationBuilder;
//! use nix_compat::store_path::StoreDir;
//!
//! let dir = StoreDir::default(); // /nix/store; any absolute directory is possible
//! let greeting = DerivationBuilder::new("greeting", "x86_64-linux", "/bin/sh")
//!     .args(["-c", "echo hello > $out"])
//!     .instantiate(&dir)?;
//! let shout = DerivationBuilder::new("shout", "x86_64-linux", "/bin/sh")
//!     .args(["-c", "tr a-z A-Z < $greeting > $out"])
//!     .input_env("greeting", &greeting, "out")
//!     .instantiate(&dir)?;
//! assert!(shout.derivation.input_drvs.get(&greeting.path).is_some());
//! assert!(dir.display(&shout.path).to_string().ends_with("-shout.drv"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! All are on by default. Without any of them the crate reads and writes derivations, store paths,
//! NARs and narinfo, computes store paths, needs 12 other crates and no C compiler.
//!
//! | feature | adds |
//! |---|---|
//! | `async` | `nar::async`: NAR reader and writer over `tokio::io` |
//! | `hash` | `NixHasher`: all hash algorithms of Nix; store paths by a SHA-256 in assembly |
//! | `json` | Nix's JSON of derivations, path infos, realisations and NAR listings |
//! | `serde` | `Serialize` and `Deserialize` for the types |
//! | `signing` | Ed25519 keys: signing, verifying |

#![forbid(unsafe_code)]

mod serde_text;

pub mod content_address;
pub mod derivation;
pub mod machines;
pub mod nar;
pub mod narinfo;
pub mod nix_conf;
pub mod nixbase32;
pub mod nixhash;
pub mod path_info;
pub mod realisation;
pub mod refscan;
pub mod signature;
pub mod sorted;
pub mod store_path;

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use bstr;
#[cfg(feature = "signing")]
#[doc(no_inline)]
pub use getrandom;
#[cfg(feature = "json")]
#[doc(no_inline)]
pub use serde_json;
#[cfg(feature = "async")]
#[doc(no_inline)]
pub use tokio;
