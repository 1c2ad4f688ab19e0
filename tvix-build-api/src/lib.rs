//! The Builder trait of the Tvix build flow and its back ends.

#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub mod sandbox;
