//! Go's text/template language with sprig's text functions: template text + data -> text.
//! PURE.
//!
//! ```text
//! text -> lex (text and action tokens, trim markers applied) -> parse (tree, every name known) -> eval (bounded)
//! ```
//!
//! Base configs are written in this language, so it behaves as Go does
//! (<https://pkg.go.dev/text/template>), and refuses at parse time, with key, line and
//! column, whatever it does not know or must not do: anything random, timed or that reads
//! the environment.
//!
//! Whoever may write a base config is not trusted with the operator's time, stack or
//! memory: parsing and evaluation have one depth each, every value has a size, and all
//! work is counted.
#![deny(clippy::disallowed_methods)]

mod budget;
mod dict;
mod error;
mod eval;
mod format;
mod functions;
mod lex;
mod parse;
mod tree;
mod value;
mod version;

pub use budget::Spent;
pub use error::Error;
pub use functions::Functions;
pub use value::Value;

use tree::Tree;

/// Bounds of one rendering.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of output.
    pub output_bytes: usize,
    /// Nodes, commands and arguments evaluated, and turns of loops.
    pub steps: usize,
    /// Bytes of all values made or copied, about. One value may have 1 MiB.
    pub work_bytes: usize,
    /// Nesting of blocks, parentheses and templates called, together.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            output_bytes: 1 << 20,
            steps: 200_000,
            work_bytes: 32 << 20,
            depth: 100,
        }
    }
}

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    name: String,
    text: String,
    tree: Tree,
}

impl Template {
    /// Parses `text`; `name` is how errors call it (the ConfigMap's key).
    ///
    /// # Errors
    /// With line and column, for a syntax error or a function that is unknown or refused.
    pub fn parse(name: &str, text: &str, functions: &Functions) -> Result<Self, Error> {
        let tree = lex::lex(text)
            .and_then(|tokens| parse::parse(tokens, functions))
            .map_err(|fault| fault.at(name, text))?;
        Ok(Self {
            name: name.to_owned(),
            text: text.to_owned(),
            tree,
        })
    }

    /// Renders with `data` as the dot.
    ///
    /// # Errors
    /// With line and column, for a field that does not exist, a function that fails, or a
    /// bound that is hit.
    pub fn render(
        &self,
        data: &Value,
        functions: &Functions,
        limits: &Limits,
    ) -> Result<String, Error> {
        self.render_after(data, functions, limits, limits, &mut Spent::default())
    }

    /// As [`Self::render`], as one of several whose use together must stay within `whole`:
    /// `spent` is what those before it used, and what this one uses is added.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_after(
        &self,
        data: &Value,
        functions: &Functions,
        limits: &Limits,
        whole: &Limits,
        spent: &mut Spent,
    ) -> Result<String, Error> {
        eval::render(&self.tree, data, functions, limits, whole, spent)
            .map_err(|fault| fault.at(&self.name, &self.text))
    }
}

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
