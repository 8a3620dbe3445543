//! What a step does -> how long it takes. PURE.

use std::time::Duration;

/// How fast the machine is.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// Where not zero: a whole uncached prompt takes this, whatever its length, and a cached
    /// part takes its share less. `prefill_overhead` and `prefill_per_token` then do not count.
    pub time_to_first_token: Duration,
    /// Paid once when a prompt starts.
    pub prefill_overhead: Duration,
    /// Per uncached prompt token.
    pub prefill_per_token: Duration,
    /// A step in which requests generate.
    pub inter_token: Duration,
    /// Per token of KV cache fetched from another engine.
    pub transfer_per_token: Duration,
    /// How much slower a step is when all seats are taken, against one; 1 is no slower.
    pub factor_under_load: f64,
}

/// A cached prompt costs this share of `time_to_first_token`.
const CACHED_SHARE: f64 = 0.05;

/// The work of one step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    /// Requests in the step.
    pub(super) requests: usize,
    /// Some request generates from cached tokens alone.
    pub(super) decodes: bool,
    /// Some prompt starts.
    pub(super) starts: bool,
    /// Prompt tokens computed.
    pub(super) prefill_tokens: usize,
    /// Sum over prompts of the share of the prompt that is computed.
    pub(super) prompt_shares: f64,
}

impl Timing {
    /// How long a step takes on a machine with `seats` places.
    pub(super) fn step(&self, work: Work, seats: usize) -> Duration {
        let mut time = Duration::ZERO;
        if work.decodes {
            time += self.inter_token;
        }
        if self.time_to_first_token.is_zero() {
            if work.starts {
                time += self.prefill_overhead;
            }
            time += times(self.prefill_per_token, work.prefill_tokens);
        } else if work.prompt_shares > 0.0 || work.starts {
            let share = work.prompt_shares.max(CACHED_SHARE);
            time += self.time_to_first_token.mul_f64(share);
        }
        time.mul_f64(self.load(work.requests, seats))
    }

    /// How long `tokens` tokens of KV cache travel.
    pub(super) fn transfer(&self, tokens: usize) -> Duration {
        times(self.transfer_per_token, tokens)
    }

    fn load(&self, requests: usize, seats: usize) -> f64 {
        if seats < 2 {
            return 1.0;
        }
        let share = requests.saturating_sub(1) as f64 / (seats - 1) as f64;
        1.0 + (self.factor_under_load - 1.0).max(0.0) * share
    }
}

fn times(unit: Duration, count: usize) -> Duration {
    unit.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}
