//! A request -> whether its prompt may be computed by another engine than its answer. PURE.
//!
//! The decode engine takes the blocks of one transfer for the whole prompt of whatever runs
//! under the request. That is right for one prompt that both engines see alike and that is
//! sampled once. For all else the answer would be wrong, the decode engine would fail, or
//! blocks would stay on the prefill engine until their lease ends. In doubt the decode engine
//! computes the prompt itself, which is slower and always right.

use super::{Fields, Request, lenient, member, whole};
use crate::openai::api::Api;
use crate::openai::scan::Raw;

/// Why one transfer cannot serve a request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum NotOneTransfer {
    /// What was not seen may hold any of the reasons below.
    #[error("only the beginning of the body was seen")]
    BodyNotWhole,
    /// Embeddings, scores, counts: there is no decode that could take the blocks.
    #[error("the path generates no tokens")]
    NotGenerating,
    /// No JSON object, or a broken one: the engine will refuse it.
    #[error("the body cannot be read as a JSON object")]
    Unreadable,
    /// Nothing to compute, or nothing that could be read.
    #[error("there is no prompt")]
    NoPrompt,
    /// Every prompt of a list would decode on the blocks of the first.
    #[error("there are several prompts")]
    ManyPrompts,
    /// Prompts given as embeddings: the engine adds them to the list of prompts.
    #[error("the prompt is given as embeddings")]
    PromptEmbeds,
    /// `n` or `best_of` above 1: each sample is a request of its own for the engine, and each
    /// would ask for the one set of blocks.
    #[error("more than one answer is asked for")]
    ManySamples,
    /// A beam search is many short requests inside the engine, none with transfer parameters.
    #[error("a beam search is asked for")]
    BeamSearch,
    /// Needs the prompt computed where the answer is: blocks hold no probabilities.
    #[error("probabilities of prompt tokens are asked for")]
    PromptLogprobs,
    /// `echo` with `logprobs`, the older way to ask for the same.
    #[error("the prompt is to be echoed with probabilities")]
    Echo,
    /// The engine is told to read no cache, and so leaves the transferred blocks unread.
    #[error("the prompt must not be read from a cache")]
    NoCacheRead,
    /// The engine cuts the prompt to what the answer's length leaves, and the prefill's answer
    /// has another length: the blocks would be those of another prompt.
    #[error("the prompt is cut to the room that is left")]
    Truncation,
    /// A part of the prompt lies in the memory of the engine that gave the former answer.
    #[error("the prompt goes on from an answer that an engine keeps")]
    StoredState,
    /// The answer comes at once and has no transfer parameters.
    #[error("the answer is made in the background")]
    Background,
    /// The engine calls tools itself and goes on with a longer prompt under the same
    /// parameters: it would fetch the same blocks again for each call.
    #[error("the engine is to call tools itself")]
    EngineTools,
}

impl NotOneTransfer {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::BodyNotWhole,
        Self::NotGenerating,
        Self::Unreadable,
        Self::NoPrompt,
        Self::ManyPrompts,
        Self::PromptEmbeds,
        Self::ManySamples,
        Self::BeamSearch,
        Self::PromptLogprobs,
        Self::Echo,
        Self::NoCacheRead,
        Self::Truncation,
        Self::StoredState,
        Self::Background,
        Self::EngineTools,
    ];

    /// The label value in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::BodyNotWhole => "body-not-whole",
            Self::NotGenerating => "not-generating",
            Self::Unreadable => "unreadable",
            Self::NoPrompt => "no-prompt",
            Self::ManyPrompts => "many-prompts",
            Self::PromptEmbeds => "prompt-embeds",
            Self::ManySamples => "many-samples",
            Self::BeamSearch => "beam-search",
            Self::PromptLogprobs => "prompt-logprobs",
            Self::Echo => "echo",
            Self::NoCacheRead => "no-cache-read",
            Self::Truncation => "truncation",
            Self::StoredState => "stored-state",
            Self::Background => "background",
            Self::EngineTools => "engine-tools",
        }
    }
}

pub(super) fn check(request: &Request<'_>) -> Result<(), NotOneTransfer> {
    let fields = &request.fields;
    if !request.whole {
        return Err(NotOneTransfer::BodyNotWhole);
    }
    let api = request.api.filter(|api| api.generates());
    let api = api.ok_or(NotOneTransfer::NotGenerating)?;
    if !request.sound {
        return Err(NotOneTransfer::Unreadable);
    }
    check_sampling(fields)?;
    match api {
        Api::Generate => check_sampling(&nested(fields.sampling_params))?,
        Api::Completions => check_completion(fields)?,
        Api::Responses => check_responses(fields)?,
        _ => {}
    }
    match request.prompt_count() {
        1 => Ok(()),
        0 => Err(NotOneTransfer::NoPrompt),
        _ => Err(NotOneTransfer::ManyPrompts),
    }
}

/// Fields that every API has, or that its engine ignores: clients who set them for nothing
/// lose nothing.
fn check_sampling(fields: &Fields<'_>) -> Result<(), NotOneTransfer> {
    let several = |value| whole(value).is_some_and(|value| lenient::count(value) != Some(1));
    if several(fields.n) || several(fields.best_of) {
        return Err(NotOneTransfer::ManySamples);
    }
    if maybe(fields.use_beam_search) {
        return Err(NotOneTransfer::BeamSearch);
    }
    if whole(fields.prompt_logprobs).is_some() {
        return Err(NotOneTransfer::PromptLogprobs);
    }
    if maybe(fields.skip_reading_prefix_cache) {
        return Err(NotOneTransfer::NoCacheRead);
    }
    // A number of tokens cuts alike on both engines; -1 is "as many as fit".
    let cut = whole(fields.truncate_prompt_tokens);
    if cut.is_some_and(|cut| lenient::count(cut).is_none()) {
        return Err(NotOneTransfer::Truncation);
    }
    Ok(())
}

fn check_completion(fields: &Fields<'_>) -> Result<(), NotOneTransfer> {
    if whole(fields.prompt_embeds).is_some() {
        return Err(NotOneTransfer::PromptEmbeds);
    }
    // `logprobs: 0` asks for those of the prompt's own tokens.
    if maybe(fields.echo) && whole(fields.logprobs).is_some() {
        return Err(NotOneTransfer::Echo);
    }
    Ok(())
}

fn check_responses(fields: &Fields<'_>) -> Result<(), NotOneTransfer> {
    if whole(fields.previous_response_id).is_some() || whole(fields.conversation).is_some() {
        return Err(NotOneTransfer::StoredState);
    }
    if maybe(fields.background) {
        return Err(NotOneTransfer::Background);
    }
    let disabled = |value: Raw<'_>| value.text().is_some_and(|text| text == "disabled");
    // Null counts as "auto" there.
    if fields.truncation.is_some_and(|value| !disabled(value)) {
        return Err(NotOneTransfer::Truncation);
    }
    let tools = whole(fields.tools).and_then(Raw::elements);
    if tools.is_some_and(|mut tools| tools.any(|tool| !is_clients(tool))) {
        return Err(NotOneTransfer::EngineTools);
    }
    Ok(())
}

/// True for tools that the client calls: the answer ends where the call begins.
fn is_clients(tool: Raw<'_>) -> bool {
    let kind = member(Some(tool), "type").and_then(Raw::text);
    kind.is_some_and(|kind| matches!(&*kind, "function" | "custom" | "namespace"))
}

/// A flag that is set, or may be: what cannot be read is not taken for false.
fn maybe(value: Option<Raw<'_>>) -> bool {
    whole(value).is_some_and(|value| lenient::flag(value) != Some(false))
}

fn nested<'a>(object: Option<Raw<'a>>) -> Fields<'a> {
    let members = whole(object).and_then(Raw::members);
    members.map_or_else(Fields::default, |mut members| Fields::read(&mut members))
}
