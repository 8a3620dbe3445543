//! What one rendering has used up: steps, bytes copied, nesting. PURE.
//!
//! A base config is written by whoever may write ConfigMaps, and the operator renders it
//! for everybody: no template may keep it busy or fill its memory.

use super::error::Fault;
use super::{Limits, Value};

/// What renderings have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Bytes of output.
    pub output_bytes: usize,
    /// Steps, see [`Limits::steps`].
    pub steps: usize,
    /// Bytes of values, see [`Limits::work_bytes`].
    pub work_bytes: usize,
}

/// Counts against [`Limits`]; every error says where and what to do.
pub(super) struct Budget<'a> {
    limits: &'a Limits,
    /// Limits for this rendering and those before it, together.
    whole: &'a Limits,
    before: Spent,
    used: Spent,
    depth: usize,
}

impl<'a> Budget<'a> {
    pub(super) fn new(limits: &'a Limits, whole: &'a Limits, before: Spent) -> Self {
        Self {
            limits,
            whole,
            before,
            used: Spent::default(),
            depth: 0,
        }
    }

    /// What this rendering and those before it have used.
    pub(super) fn spent(&self) -> Spent {
        Spent {
            output_bytes: self.before.output_bytes + self.used.output_bytes,
            steps: self.before.steps + self.used.steps,
            work_bytes: self.before.work_bytes + self.used.work_bytes,
        }
    }

    /// One node, command, argument or turn of a loop.
    pub(super) fn step(&mut self, offset: usize) -> Result<(), Fault> {
        self.used.steps += 1;
        let advice = "steps; loop less often, or write the text out";
        within(self.used.steps, self.limits.steps, "", advice, offset)?;
        let all = self.before.steps + self.used.steps;
        within(all, self.whole.steps, TOGETHER, advice, offset)
    }

    /// A value that is made or copied: each one bounded, and all of them together. The
    /// total bounds the memory of all variables too, as each value in one was counted.
    pub(super) fn charge(&mut self, value: &Value, offset: usize) -> Result<(), Fault> {
        let bytes = value
            .weigh()
            .map_err(|message| Fault::new(offset, message))?;
        self.charge_bytes(bytes, offset)
    }

    /// Work that is worth so many bytes of values.
    pub(super) fn charge_bytes(&mut self, bytes: usize, offset: usize) -> Result<(), Fault> {
        self.used.work_bytes += bytes;
        let advice =
            "bytes of values made in one rendering; loop less often, or use smaller values";
        within(
            self.used.work_bytes,
            self.limits.work_bytes,
            "",
            advice,
            offset,
        )?;
        let all = self.before.work_bytes + self.used.work_bytes;
        within(all, self.whole.work_bytes, TOGETHER, advice, offset)
    }

    /// How many more bytes of values may be made.
    pub(super) fn left(&self) -> usize {
        let all = self.before.work_bytes + self.used.work_bytes;
        let own = self.limits.work_bytes.saturating_sub(self.used.work_bytes);
        own.min(self.whole.work_bytes.saturating_sub(all))
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

    /// So many more bytes are written.
    pub(super) fn output(&mut self, bytes: usize, offset: usize) -> Result<(), Fault> {
        self.used.output_bytes += bytes;
        let advice = "bytes of output; a ConfigMap cannot hold more either";
        within(
            self.used.output_bytes,
            self.limits.output_bytes,
            "",
            advice,
            offset,
        )?;
        let all = self.before.output_bytes + self.used.output_bytes;
        within(all, self.whole.output_bytes, TOGETHER, advice, offset)
    }
}

const TOGETHER: &str = "all keys together: ";

fn within(
    used: usize,
    limit: usize,
    whose: &str,
    advice: &str,
    offset: usize,
) -> Result<(), Fault> {
    if used <= limit {
        return Ok(());
    }
    Err(Fault::new(
        offset,
        format!("{whose}more than {limit} {advice}"),
    ))
}
