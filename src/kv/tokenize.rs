//! A prompt -> its tokens, as the engine will make them. The edge is IO; the parts are not.
//!
//! ```text
//! chat -> chat_template (text) -> cache (known pieces) -> local (the rest)    in this process
//!                                                      or remote              the engine's /tokenize
//! ```
//!
//! No tokens is an answer, too: the caller goes on with what it has, and never fails a request
//! for it.

pub mod cache;
pub mod chat_template;
pub mod local;
#[cfg(feature = "http")]
pub mod remote;
#[cfg(feature = "http")]
mod source;
#[cfg(test)]
pub(crate) mod testing;

#[cfg(feature = "http")]
pub use self::source::{CallerThread, Prompt, PromptRef, Reason, Settings, Tokenizers, Tokens};
