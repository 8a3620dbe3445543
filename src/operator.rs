//! The controller: a `ModelService` and what it refers to -> the objects behind it.
//!
//! ```text
//! watch -> resolve(IO) -> plan(template, decode, merge, validate) -> render -> apply(IO) -> status -> patch(IO)
//! ```
//!
//! Stages never import each other; `reconcile` calls them in order.

pub mod children;
pub mod diff;
pub mod leader;
pub mod resolved;
pub mod settings;
