//! What one rendering has used up: steps, bytes copied, nesting. PURE.
//!
//! A base config is written by whoever may write ConfigMaps, and the operator renders it
//! for everybody: no template may keep it busy or fill its memory.

use super::error::Fault;
use super::{Limits, Value};

/// Counts against [`Limits`]; every error says where and what to do.
pub(super) struct Budget<'a> {
    limits: &'a Limits,
    steps: usize,
    work_bytes: usize,
    depth: usize,
}

impl<'a> Budget<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            steps: 0,
            work_bytes: 0,
            depth: 0,
        }
    }

    /// One node, command, argument or turn of a loop.
    pub(super) fn step(&mut self, offset: usize) -> Result<(), Fault> {
        self.steps += 1;
        if self.steps <= self.limits.steps {
            return Ok(());
        }
        Err(Fault::new(
            offset,
            format!(
                "more than {} steps; loop less often, or write the text out",
                self.limits.steps
            ),
        ))
    }

    /// A value that is made or copied: each one bounded, and all of them together. The
    /// total bounds the memory of all variables too, as each value in one was counted.
    pub(super) fn charge(&mut self, value: &Value, offset: usize) -> Result<(), Fault> {
        let bytes = value
            .weigh()
            .map_err(|message| Fault::new(offset, message))?;
        self.work_bytes += bytes;
        if self.work_bytes <= self.limits.work_bytes {
            return Ok(());
        }
        Err(Fault::new(
            offset,
            format!(
                "more than {} bytes of values made in one rendering; loop less often, or use \
                 smaller values",
                self.limits.work_bytes
            ),
        ))
    }

    /// One level deeper: a block, a parenthesis or a template called.
    pub(super) fn enter(&mut self, offset: usize) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth <= self.limits.depth {
            return Ok(());
        }
        Err(Fault::new(
            offset,
            format!(
                "blocks and templates are nested more than {} deep; a template must not call \
                 itself without an end",
                self.limits.depth
            ),
        ))
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Whether so many more bytes may be written.
    pub(super) fn output(&self, bytes: usize, offset: usize) -> Result<(), Fault> {
        if bytes <= self.limits.output_bytes {
            return Ok(());
        }
        Err(Fault::new(
            offset,
            format!(
                "more than {} bytes of output; a ConfigMap cannot hold more either",
                self.limits.output_bytes
            ),
        ))
    }
}
