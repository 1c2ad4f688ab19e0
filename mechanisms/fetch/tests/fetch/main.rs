//! Fetching while evaluating: files, archives, Git; from the loopback interface and from disk.

#![allow(clippy::unwrap_used)] // Helpers of tests.

mod archives;
mod files;
mod formats;
mod git;
mod modes;
mod pack;
mod parity;
mod repositories;
mod server;
mod together;
mod world;

use world::World;
