//! After the window: the ceiling, from what was sent and what the engine says of it. IO:
//! asks the engine for tokens, or for the lengths of shared prompts.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

use super::{Say, Sender};
use crate::bench::ceiling::{self, Method, Prompt};
use crate::bench::exposition::Counters;
use crate::bench::outcome::{Ceiling, HealthRow, RequestRow};
use crate::bench::plan::{Plan, Request};

/// The most prompts that the engine is asked to tokenize.
const MOST_TOKENIZED: usize = 512;

/// A prompt and the request that asks for it.
pub(super) struct Sent<'a> {
    request: &'a Request,
    prompt: Prompt,
}

/// All answered requests in the order they were sent.
pub(super) fn order<'a>(
    plan: &'a Plan,
    warmed: &[Option<u64>],
    health: &HealthRow,
    rows: &[RequestRow],
) -> Vec<Sent<'a>> {
    let sent = |request: &'a Request, tokens: Option<u64>, measured: bool| {
        Some(Sent {
            request,
            prompt: Prompt {
                tokens: tokens?,
                text: request.text,
                group: request.group,
                measured,
            },
        })
    };
    let mut measured: Vec<_> = plan.measured.iter().zip(rows).collect();
    measured.sort_by(|left, right| left.1.at_seconds.total_cmp(&right.1.at_seconds));
    let warm = plan.warmup.iter().zip(warmed);
    warm.filter_map(|(request, tokens)| sent(request, *tokens, false))
        .chain(sent(&plan.health, health.prompt_tokens, true))
        .chain(
            measured
                .into_iter()
                .filter_map(|(request, row)| sent(request, row.prompt_tokens, true)),
        )
        .collect()
}

/// The ceiling of a run; `None` where no answer says how long its prompt is.
pub(super) async fn ceiling(
    sender: &Sender<'_>,
    order: &[Sent<'_>],
    health: &HealthRow,
    (block, block_from): (u64, &str),
    say: Say<'_>,
) -> Option<Ceiling> {
    let (sum, method) = reach(sender, order, health, block, say).await?;
    Some(Ceiling {
        percent: sum.percent()?,
        hit_tokens: sum.hit_tokens,
        query_tokens: sum.query_tokens,
        method,
        block_size: block,
        block_size_from: block_from.to_owned(),
    })
}

/// From tokens where the engine tokenizes for us, else from lengths.
async fn reach(
    sender: &Sender<'_>,
    order: &[Sent<'_>],
    health: &HealthRow,
    block: u64,
    say: Say<'_>,
) -> Option<(Counters, Method)> {
    if !order.iter().any(|sent| sent.prompt.measured) {
        return None;
    }
    let prompts: Vec<Prompt> = order.iter().map(|sent| sent.prompt.clone()).collect();
    if let Some(tokens) = all_tokens(sender, order).await
        && let Some(sum) = ceiling::from_tokens(&prompts, &tokens, block)
    {
        return Some((sum, Method::Tokens));
    }
    if sender.plan.probes.is_empty() {
        let sum = ceiling::from_lengths(&prompts, &BTreeMap::new(), block);
        return Some((sum, Method::EqualPrompts));
    }
    say("measuring the shared system prompts");
    let prefixes = probe(sender, health.prompt_tokens?, &prompts).await;
    let sum = ceiling::from_lengths(&prompts, &prefixes, block);
    Some((sum, Method::EstimatedPrefix))
}

async fn all_tokens(sender: &Sender<'_>, order: &[Sent<'_>]) -> Option<BTreeMap<usize, Vec<u32>>> {
    let texts: HashSet<usize> = order.iter().map(|sent| sent.prompt.text).collect();
    if texts.len() > MOST_TOKENIZED {
        return None;
    }
    let mut tokens = BTreeMap::new();
    for sent in order {
        if let Entry::Vacant(absent) = tokens.entry(sent.prompt.text) {
            absent.insert(sender.tokens(sent.request).await?);
        }
    }
    Some(tokens)
}

/// The length of each group's system prompt: a prompt with it and the health check's
/// message, less the health check. Groups beyond the probed ones get the shortest.
async fn probe(sender: &Sender<'_>, bare: u64, prompts: &[Prompt]) -> BTreeMap<usize, u64> {
    let mut prefixes = BTreeMap::new();
    for request in &sender.plan.probes {
        let answer = sender.chat(request, sender.timeout).await;
        let length = answer.ok().and_then(|answer| answer.usage.prompt_tokens);
        if let (Some(group), Some(length)) = (request.group, length) {
            prefixes.insert(group, length.saturating_sub(bare));
        }
    }
    if let Some(shortest) = prefixes.values().copied().min() {
        for group in prompts.iter().filter_map(|prompt| prompt.group) {
            prefixes.entry(group).or_insert(shortest);
        }
    }
    prefixes
}
