//! The sandbox engine on this machine, as whatever user runs the tests.
#![cfg(all(feature = "sandbox", target_os = "linux"))]

mod ends;
mod support;
mod world;
