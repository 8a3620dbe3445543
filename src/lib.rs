//! One `ModelService` in, a KV-cache-aware LLM service out.
//!
//! Four programs share this library:
//!
//! ```text
//! operator   watch -> resolve(IO) -> facts -> render -> check -> apply(IO) -> status -> patch(IO)
//!            Resolved     Facts (every decision)  Children<Desired>  Children<Applied>  ModelServiceStatus
//! epp        message -> session.handle -> director: parse -> schedule -> respond -> actions -> stream
//!            side inputs, each one writer task and lock-free readers: discover -> datastore
//! proxy      request -> route(headers) -> connector -> stream back
//! sim        request -> engine.submit -> step -> tokens -> stream
//! ```
//!
//! Everything is fetched first, decided in one pure call, then acted upon.
//! `docs/architecture.md` says which module may import which.

#[cfg(feature = "kube")]
pub mod api;
#[cfg(feature = "operator")]
pub mod bench;
pub mod contract;
#[cfg(feature = "epp")]
pub mod epp;
pub mod gotemplate;
pub mod kv;
mod nearest;
pub mod openai;
#[cfg(feature = "operator")]
pub mod operator;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod scheduling;
#[cfg(feature = "sim")]
pub mod sim;
pub mod telemetry;
#[cfg(feature = "zmq")]
pub mod zmtp;
