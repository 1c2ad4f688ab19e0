//! Tests of the sandbox engine on this machine, as the current user.
#![cfg(target_os = "linux")]

#[cfg(test)]
mod embedders;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod keyrings;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod odd;
#[cfg(test)]
mod outside;
#[cfg(test)]
mod sockets;
#[cfg(test)]
mod support;
#[cfg(test)]
mod syscalls;
#[cfg(test)]
mod trace;
#[cfg(test)]
mod world;
