//! The controller: a `ModelService` and what it refers to -> the objects behind it.
//!
//! ```text
//! watch -> resolve(IO) -> facts -> render -> check -> apply(IO) -> status -> patch(IO)
//! ```
//!
//! Stages never import each other; `reconcile` calls them in order.

pub mod apply;
pub mod artifacts;
pub mod base;
pub mod builtin;
pub mod check;
pub mod children;
pub mod cli;
pub mod decode;
pub mod diff;
pub mod engine;
pub mod error;
pub mod events;
pub mod facts;
pub mod finding;
pub mod guard;
pub mod invalid;
pub mod leader;
pub mod merge;
pub mod metrics;
pub mod names;
pub mod neighbours;
pub mod observe;
pub mod rbac;
pub mod reconcile;
pub mod render;
pub mod resolve;
pub mod resolved;
pub mod served;
pub mod settings;
pub mod status;
pub mod template;
pub mod watch;
