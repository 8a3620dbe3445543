//! An error and its causes -> one line, for logs, conditions and answers. PURE.
#![deny(clippy::disallowed_methods)]

use std::error::Error;

/// The error and its causes, outermost first. A cause that the error before it has said
/// already is left out: libraries differ in whether an error repeats its source.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(&'static str, #[source] std::fmt::Error);

    #[test]
    fn each_cause_is_said_once() {
        let inner = std::fmt::Error.to_string();
        assert_eq!(
            chain(&Outer("read", std::fmt::Error)),
            format!("read: {inner}")
        );
        let repeats: &'static str = Box::leak(format!("read: {inner}").into_boxed_str());
        assert_eq!(chain(&Outer(repeats, std::fmt::Error)), repeats);
    }
}
