//! A container's command line -> what starts in it, and what its flags say. PURE.
//!
//! One reader for every question about ports, parallelism, KV events and flags that engines no
//! longer take. What cannot be known (a shell variable, a file of settings) is said to be
//! unknown, never guessed.
#![deny(clippy::disallowed_methods)]

mod command;
mod flags;

pub use self::command::{CommandLine, Port, Program};
pub use self::flags::refused_flags;
