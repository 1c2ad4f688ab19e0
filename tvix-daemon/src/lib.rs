//! A daemon for clients of Nix, in front of any store and coordinator.

#![forbid(unsafe_code)]

mod builds;
mod client;

pub use builds::{Builds, LogSender, PostBuildHook};
pub use client::{Client, ClientSettings};
