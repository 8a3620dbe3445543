//! What every program needs around its work: logs, a metrics registry behind an
//! admin server, and one way to shut down. IO; knows nothing of what it serves.

pub mod admin;
pub mod budget;
pub mod logging;
pub mod shutdown;
