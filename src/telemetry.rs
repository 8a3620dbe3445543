//! What every program needs around its work: logs, a metrics registry behind an
//! admin server, one way to shut down, a bound on the memory that peers can fill.
//! IO but for `budget`, `duration` and `histogram`; knows nothing of what it serves.

#[cfg(feature = "tokio")]
pub mod admin;
#[cfg(feature = "tokio")]
pub mod bind;
#[cfg(feature = "tokio")]
pub mod budget;
pub mod duration;
pub mod error_chain;
#[cfg(feature = "tokio")]
pub mod histogram;
#[cfg(feature = "tokio")]
pub mod logging;
#[cfg(feature = "tokio")]
pub mod shutdown;
