//! What a gateway sees, in every body mode.
//!
//! Messages are built and replies are read with the generated types of another crate, through
//! their bytes: a wrong field number here would be a wrong one there.

mod bounds;
mod gateway;
mod in_process;
mod messages;
mod modes;
