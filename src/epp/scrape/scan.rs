//! Bytes of a model server's metrics page, chunk by chunk -> the few numbers that routing
//! needs. PURE; must not keep the page, and must not fail on any bytes.
//!
//! A page of an engine has some hundred kilobytes, of which eight lines matter. Lines are told
//! apart by their first bytes; only those of a wanted family are looked into. Names are those
//! of vLLM (<https://docs.vllm.ai/en/latest/design/metrics/>, the KV gauge under its old name
//! too) and of SGLang (<https://docs.sglang.ai/references/production_metrics.html>).

#![deny(clippy::disallowed_methods)]

/// The longest line that is looked into, in bytes. Engines' lines stay below 4 KiB.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// What a page says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Page {
    /// Requests that wait for the scheduler, over all engines of the page.
    pub waiting: u64,
    /// Requests in the running batch, over all engines of the page.
    pub running: u64,
    /// Share of the KV cache in use, from 0 to 1; the mean over engines, which have caches of
    /// one size.
    pub kv_usage: f64,
    /// Tokens in a block of the KV cache.
    pub block_size: Option<u32>,
    /// Blocks of the KV cache, over all engines of the page.
    pub num_gpu_blocks: Option<u64>,
}

/// Why a page says nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScanError {
    /// No gauge of a known engine.
    #[error("the page has no gauge of a known engine")]
    Empty,
    /// Binary.
    #[error("the page is not text")]
    NotText,
}

/// Wanted families. The order is that of [`Scanner::sums`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    Waiting,
    Running,
    Usage,
    UsageOld,
    SglangWaiting,
    SglangRunning,
    SglangUsage,
    Config,
    SglangConfig,
}

/// Gauges, which are summed; the others carry their numbers in labels.
const GAUGES: usize = Family::SglangUsage as usize + 1;

impl Family {
    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"vllm:num_requests_waiting" => Self::Waiting,
            b"vllm:num_requests_running" => Self::Running,
            b"vllm:kv_cache_usage_perc" => Self::Usage,
            b"vllm:gpu_cache_usage_perc" => Self::UsageOld,
            b"vllm:cache_config_info" => Self::Config,
            b"sglang:num_queue_reqs" => Self::SglangWaiting,
            b"sglang:num_running_reqs" => Self::SglangRunning,
            b"sglang:token_usage" => Self::SglangUsage,
            b"sglang:cache_config_info" => Self::SglangConfig,
            _ => return None,
        })
    }
}

/// Sum and number of the series of one family.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    total: f64,
    series: u32,
}

impl Sum {
    fn add(&mut self, value: f64) {
        self.total += value;
        self.series = self.series.saturating_add(1);
    }

    fn mean(self) -> Option<f64> {
        (self.series > 0).then(|| self.total / f64::from(self.series))
    }

    fn count(self) -> Option<u64> {
        // A cast of a float saturates, which is as near as a count can get.
        (self.series > 0).then_some(self.total as u64)
    }
}

/// Reads one page.
#[derive(Debug, Default)]
pub struct Scanner {
    sums: [Sum; GAUGES],
    block_size: Option<u32>,
    num_gpu_blocks: Option<u64>,
    /// The beginning of a line whose end is in a later chunk.
    carry: Vec<u8>,
    /// The rest of the line is passed over: it is too long.
    skipping: bool,
    long_lines: u64,
    binary: bool,
}

impl Scanner {
    /// A scanner at the start of a page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the page, cut anywhere.
    pub fn feed(&mut self, mut chunk: &[u8]) {
        self.binary |= memchr::memchr(0, chunk).is_some();
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            if self.skipping {
                self.skipping = false;
            } else if self.carry.is_empty() {
                self.line(line);
            } else {
                self.keep(line);
                self.end_carried();
            }
            chunk = rest;
        }
        self.keep(chunk);
    }

    /// What the page said.
    ///
    /// # Errors
    /// When the page is binary or has no gauge of a known engine.
    pub fn finish(mut self) -> Result<Page, ScanError> {
        // Writers end the last line too, but not all of them do.
        self.end_carried();
        if self.binary {
            return Err(ScanError::NotText);
        }
        let sum = |family: Family| self.sums[family as usize];
        let either =
            |ours: Family, theirs: Family| sum(ours).count().or_else(|| sum(theirs).count());
        let waiting = either(Family::Waiting, Family::SglangWaiting);
        let running = either(Family::Running, Family::SglangRunning);
        let kv_usage = [Family::Usage, Family::UsageOld, Family::SglangUsage]
            .into_iter()
            .find_map(|family| sum(family).mean());
        if waiting.is_none() && running.is_none() && kv_usage.is_none() {
            return Err(ScanError::Empty);
        }
        Ok(Page {
            waiting: waiting.unwrap_or(0),
            running: running.unwrap_or(0),
            kv_usage: kv_usage.unwrap_or(0.0).min(1.0),
            block_size: self.block_size,
            num_gpu_blocks: self.num_gpu_blocks,
        })
    }

    /// Lines passed over because they were too long.
    pub fn long_lines(&self) -> u64 {
        self.long_lines
    }

    fn keep(&mut self, part: &[u8]) {
        if self.skipping {
            return;
        }
        if self.carry.len() + part.len() > MAX_LINE_BYTES {
            self.carry.clear();
            self.skipping = true;
            self.long_lines += 1;
        } else {
            self.carry.extend_from_slice(part);
        }
    }

    fn end_carried(&mut self) {
        self.skipping = false;
        let mut line = std::mem::take(&mut self.carry);
        self.line(&line);
        line.clear();
        self.carry = line;
    }

    /// One line without its end. A line that cannot be read is no line.
    fn line(&mut self, line: &[u8]) {
        let too_long = line.len() > MAX_LINE_BYTES;
        let line = line.trim_ascii();
        if !line.starts_with(b"vllm:") && !line.starts_with(b"sglang:") {
            return;
        }
        let name_end = line
            .iter()
            .position(|byte| matches!(byte, b'{' | b' ' | b'\t'))
            .unwrap_or(line.len());
        let Some(family) = Family::of(&line[..name_end]) else {
            return;
        };
        if too_long {
            self.long_lines += 1;
            return;
        }
        let Some((labels, rest)) = split_labels(line[name_end..].trim_ascii_start()) else {
            return;
        };
        match family {
            Family::Config => self.config(labels, b"block_size", b"num_gpu_blocks"),
            Family::SglangConfig => self.config(labels, b"page_size", b"num_pages"),
            _ => {
                if let Some(value) = value(rest) {
                    self.sums[family as usize].add(value);
                }
            }
        }
    }

    /// The numbers of an info series. Engines of one page have blocks of one size.
    fn config(&mut self, labels: &[u8], size: &[u8], blocks: &[u8]) {
        let size = label(labels, size).and_then(|size| u32::try_from(size).ok());
        self.block_size = self.block_size.or(size.filter(|size| *size > 0));
        if let Some(blocks) = label(labels, blocks) {
            let sum = self.num_gpu_blocks.unwrap_or(0).saturating_add(blocks);
            self.num_gpu_blocks = Some(sum);
        }
    }
}

/// What stands between the braces, and what follows; no braces are no labels. `None` when
/// the braces do not close.
fn split_labels(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let Some(inside) = text.strip_prefix(b"{") else {
        return Some((&[], text));
    };
    let mut quoted = false;
    let mut at = 0;
    while at < inside.len() {
        match inside[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some((&inside[..at], &inside[at + 1..])),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The first word of what follows the labels, as a count or a share: finite, not negative.
/// A timestamp or an exemplar after it is of no interest.
fn value(rest: &[u8]) -> Option<f64> {
    let rest = rest.trim_ascii_start();
    let end = rest
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(rest.len());
    let value: f64 = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value)
}

/// The whole number in one label's value. `None` when there is no such label or it says
/// something else, as `None` does before the engine has sized its cache.
fn label(mut labels: &[u8], wanted: &[u8]) -> Option<u64> {
    loop {
        let equals = memchr::memchr(b'=', labels)?;
        let name = labels[..equals].trim_ascii();
        let value = labels[equals + 1..]
            .trim_ascii_start()
            .strip_prefix(b"\"")?;
        let end = quote(value)?;
        if name == wanted {
            return std::str::from_utf8(&value[..end]).ok()?.parse().ok();
        }
        let rest = value[end + 1..].trim_ascii_start();
        labels = rest.strip_prefix(b",").unwrap_or(rest);
    }
}

/// Where a quoted text ends.
fn quote(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests;
