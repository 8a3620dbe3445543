//! The fields that hold a prompt, in every API's form -> the one prompt to route by. PURE.

use std::borrow::Cow;

use super::{Fields, lenient, member, whole};
use crate::openai::api::Api;
use crate::openai::scan::{Elements, Raw, blanks_end, count_chars, work};

/// Most tokens read of a prompt: more than any engine's context holds.
pub const MAX_PROMPT_TOKENS: usize = 4 << 20;
/// What an image is taken for: about 576 tokens, a picture of middle size in common models.
pub const IMAGE_CHARS: usize = 576 * CHARS_PER_TOKEN;
/// What a clip of audio is taken for: 30 seconds at 25 tokens each.
pub const AUDIO_CHARS: usize = 750 * CHARS_PER_TOKEN;
/// What a video or a document is taken for: eight frames or pages of 256 tokens.
pub const VIDEO_CHARS: usize = 2048 * CHARS_PER_TOKEN;

/// What one token stands for on average.
const CHARS_PER_TOKEN: usize = 4;
/// How deep texts may lie in a message: a list of blocks, one of which has a list of blocks.
const MAX_DEPTH: usize = 8;

/// What an answer is wanted to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Prompt<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// Token ids, at most [`MAX_PROMPT_TOKENS`].
    Tokens(Vec<u32>),
    /// A chat, which the engine puts into its template. Raw JSON, cut where the body is.
    Chat {
        /// How it is written.
        form: ChatForm,
        /// Text or blocks that stand before the messages: Anthropic's `system`, `instructions`
        /// of responses.
        system: Option<&'a [u8]>,
        /// The list of tools.
        tools: Option<&'a [u8]>,
        /// The list of messages or items; for responses it may be a text.
        messages: &'a [u8],
    },
}

/// Whose chats are written so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChatForm {
    /// OpenAI's chat completions: what chat templates take.
    OpenAi,
    /// OpenAI's responses: items beside messages.
    Responses,
    /// Anthropic's messages: blocks, and the system text apart.
    Anthropic,
}

/// The prompt of a request to this API.
pub(super) fn of<'a>(api: Option<Api>, fields: &Fields<'a>) -> Option<Prompt<'a>> {
    let chat = |form, system, messages: Option<Raw<'a>>| {
        let messages = messages.filter(|it| it.is_array())?;
        Some(chat(form, system, fields.tools, messages))
    };
    let openai = || chat(ChatForm::OpenAi, None, fields.messages);
    let anthropic = || chat(ChatForm::Anthropic, fields.system, fields.messages);
    match api {
        Some(Api::Chat | Api::RenderChat) => openai(),
        Some(Api::Messages | Api::CountTokens) => anthropic(),
        Some(Api::Completions | Api::RenderCompletions) => first(fields.prompt?),
        Some(Api::Generate) => tokens(fields.token_ids?).map(Prompt::Tokens),
        Some(Api::Responses) => {
            let input = fields.input.filter(|it| it.is_array() || it.is_text())?;
            let (form, system) = (ChatForm::Responses, fields.instructions);
            Some(self::chat(form, system, fields.tools, input))
        }
        Some(Api::Embeddings | Api::Pooling | Api::Classify) => {
            openai().or_else(|| first(fields.input?))
        }
        Some(Api::Tokenize) => openai().or_else(|| first(fields.prompt?)),
        Some(Api::Score | Api::Rerank) => first(queries(fields)?),
        None if fields.system.is_some() => anthropic(),
        None => openai()
            .or_else(|| first(fields.prompt?))
            .or_else(|| tokens(fields.token_ids?).map(Prompt::Tokens))
            .or_else(|| first(fields.input?))
            .or_else(|| first(queries(fields)?)),
    }
}

/// How many prompts there are.
pub(super) fn count(api: Option<Api>, fields: &Fields<'_>) -> usize {
    let list = match api {
        Some(Api::Completions | Api::RenderCompletions) => fields.prompt,
        Some(Api::Embeddings | Api::Pooling | Api::Classify) if fields.messages.is_none() => {
            fields.input
        }
        Some(Api::Tokenize) if fields.messages.is_none() => fields.prompt,
        // Every pair is a prompt.
        Some(Api::Score | Api::Rerank) => {
            let sides = [queries(fields), documents(fields)];
            let counts = sides.map(|side| side.map_or(0, prompts_in));
            return counts.into_iter().max().unwrap_or_default();
        }
        Some(Api::Generate) => fields.token_ids,
        None if fields.messages.is_none() => fields.prompt.or(fields.token_ids).or(fields.input),
        // A chat is one prompt, and costs nothing to make.
        _ => return usize::from(of(api, fields).is_some()),
    };
    list.map_or(0, prompts_in)
}

fn queries<'a>(fields: &Fields<'a>) -> Option<Raw<'a>> {
    let named = fields.query.or(fields.queries);
    named.or(fields.text_1).or(fields.data_1)
}

fn documents<'a>(fields: &Fields<'a>) -> Option<Raw<'a>> {
    let named = fields.documents.or(fields.items);
    named.or(fields.text_2).or(fields.data_2)
}

fn chat<'a>(
    form: ChatForm,
    system: Option<Raw<'a>>,
    tools: Option<Raw<'a>>,
    messages: Raw<'a>,
) -> Prompt<'a> {
    let there = |value: Option<Raw<'a>>| value.filter(|value| !value.is_null()).map(Raw::bytes);
    Prompt::Chat {
        form,
        system: there(system),
        tools: there(tools),
        messages: messages.bytes(),
    }
}

/// The only prompt, or the first of a list.
fn first(value: Raw<'_>) -> Option<Prompt<'_>> {
    if let Some(text) = value.text() {
        return Some(Prompt::Text(text));
    }
    let first = value.elements()?.next()?;
    if let Some(text) = first.text() {
        return Some(Prompt::Text(text));
    }
    let ids = if first.is_array() { first } else { value };
    tokens(ids)
        .filter(|ids| !ids.is_empty())
        .map(Prompt::Tokens)
}

/// How many prompts a value holds: tokens are one, lists of them as many.
fn prompts_in(value: Raw<'_>) -> usize {
    let Some(elements) = value.elements() else {
        return usize::from(value.is_text());
    };
    let mut prompts = elements.clone().peekable();
    match prompts.peek() {
        None => 0,
        Some(first) if first.is_text() || first.is_array() || first.is_object() => elements.count(),
        Some(_) => 1,
    }
}

/// Token ids; of a list that is cut those before the cut. `None` where anything else is among
/// them.
fn tokens(list: Raw<'_>) -> Option<Vec<u32>> {
    if let Some(ids) = plain_tokens(list.bytes()) {
        return Some(ids);
    }
    let mut ids = Vec::new();
    for element in list.elements()?.take(MAX_PROMPT_TOKENS) {
        if !element.is_whole() {
            break;
        }
        let id = lenient::count(whole(Some(element))?)?;
        ids.push(u32::try_from(id).ok()?);
    }
    Some(ids)
}

/// Token ids in a list of plain numbers below 10^9, which nearly every list of them is.
fn plain_tokens(list: &[u8]) -> Option<Vec<u32>> {
    let mut at = blanks_end(list, list.starts_with(b"[").then_some(1)?);
    // The most there can be where each has three digits; more make it grow.
    let mut ids = Vec::with_capacity((list.len() / 4).min(MAX_PROMPT_TOKENS));
    work::looked_at(list.len());
    while ids.len() < MAX_PROMPT_TOKENS {
        let (begin, mut id) = (at, 0);
        while let Some(digit @ b'0'..=b'9') = list.get(at)
            && at < begin + 9
        {
            id = id * 10 + u32::from(digit - b'0');
            at += 1;
        }
        if at == begin {
            return None;
        }
        if !matches!(list.get(at), Some(b',' | b']')) {
            at = blanks_end(list, at);
        }
        match list.get(at) {
            Some(b',') => ids.push(id),
            Some(b']') => {
                ids.push(id);
                break;
            }
            _ => return None,
        }
        at += 1;
        if !matches!(list.get(at), Some(b'0'..=b'9')) {
            at = blanks_end(list, at);
        }
    }
    Some(ids)
}

impl Prompt<'_> {
    /// Bytes that are equal at the start where prompts are, at most `limit_bytes` of them: what
    /// prefixes are compared by when there are no tokens. In a chat, system texts come first,
    /// then tools, then the rest, as in most chat templates; and a chat that goes on begins
    /// with what it was. Tokens are four bytes each, the lowest first.
    pub fn prefix_bytes(&self, limit_bytes: usize) -> Cow<'_, [u8]> {
        let cut = |bytes: &'_ [u8]| bytes.len().min(limit_bytes);
        match self {
            Self::Text(text) => Cow::Borrowed(&text.as_bytes()[..cut(text.as_bytes())]),
            Self::Tokens(ids) => {
                let mut bytes = Vec::with_capacity(limit_bytes.min(ids.len() * 4));
                for id in ids.iter().take(limit_bytes / 4) {
                    bytes.extend_from_slice(&id.to_le_bytes());
                }
                Cow::Owned(bytes)
            }
            Self::Chat {
                system,
                tools,
                messages,
                ..
            } => {
                let messages = Raw::again(messages);
                let inside = |part: Option<_>| part.map(Raw::again).map_or(&[][..], Raw::inside);
                let (system, tools) = (inside(*system), inside(*tools));
                if system.is_empty() && tools.is_empty() {
                    let bytes = messages.inside();
                    return Cow::Borrowed(&bytes[..cut(bytes)]);
                }
                let (head, rest) = system_messages(messages);
                let mut bytes = Vec::new();
                for part in [system, head, tools, rest] {
                    let room = limit_bytes - bytes.len();
                    bytes.extend_from_slice(&part[..part.len().min(room)]);
                }
                Cow::Owned(bytes)
            }
        }
    }

    /// Characters of all that the engine reads: texts, tools, and for images, audio and video
    /// what such a part is taken for ([`IMAGE_CHARS`], [`AUDIO_CHARS`], [`VIDEO_CHARS`]), not
    /// the length of its base64. Tokens are four characters each. Computed at each call.
    pub fn chars(&self) -> usize {
        match self {
            Self::Text(text) => text.chars().count(),
            Self::Tokens(ids) => ids.len() * CHARS_PER_TOKEN,
            Self::Chat {
                system,
                tools,
                messages,
                ..
            } => {
                let system = system.map_or(0, |raw| content_chars(Raw::again(raw), 0));
                let tools = tools.map_or(0, |raw| count_chars(Raw::again(raw).inside()));
                system + tools + content_chars(Raw::again(messages), 0)
            }
        }
    }
}

/// The messages' bytes, parted behind the system messages they begin with.
fn system_messages(messages: Raw<'_>) -> (&[u8], &[u8]) {
    let inside = messages.inside();
    let Some(mut elements) = messages.elements() else {
        return (&[], inside);
    };
    let mut end = 0;
    while elements.next().is_some_and(is_system) {
        end = elements.offset();
    }
    // What is inside may begin behind blanks.
    let all = messages.bytes();
    let begin = all.len() - all[1..].trim_ascii_start().len();
    inside.split_at(end.saturating_sub(begin).min(inside.len()))
}

fn is_system(message: Raw<'_>) -> bool {
    let role = member(Some(message), "role").and_then(Raw::text);
    role.is_some_and(|role| matches!(&*role, "system" | "developer"))
}

/// Characters of a text, of every element, or of what a chat template prints of an object.
fn content_chars(value: Raw<'_>, depth: usize) -> usize {
    if let Some(chars) = value.text_chars() {
        return chars;
    }
    if depth > MAX_DEPTH {
        return count_chars(value.bytes());
    }
    if let Some(elements) = value.elements() {
        return list_chars(elements, depth);
    }
    let Some(members) = value.members() else {
        return 0;
    };
    let mut chars = 0;
    let mut media = None;
    for member in members {
        let Some(name) = member.key.short(super::MAX_NAME_BYTES) else {
            continue;
        };
        match &*name {
            "type" => media = media.or(member.value.text().and_then(|kind| media_chars(&kind))),
            "content" | "text" | "thinking" | "reasoning" | "reasoning_content" | "refusal"
            | "summary" | "output" => chars += content_chars(member.value, depth + 1),
            // Printed as JSON.
            "tool_calls" | "function_call" | "arguments" | "input" => {
                chars += member
                    .value
                    .text_chars()
                    .unwrap_or_else(|| count_chars(member.value.inside()));
            }
            // Parts without a type are known by their members.
            other => media = media.or_else(|| media_chars(other)),
        }
    }
    media.unwrap_or(chars)
}

fn list_chars(elements: Elements<'_>, depth: usize) -> usize {
    elements
        .map(|element| content_chars(element, depth + 1))
        .sum()
}

/// What a part of this type is taken for; `None` when it is none of media.
fn media_chars(kind: &str) -> Option<usize> {
    Some(match kind {
        "image" | "image_url" | "input_image" | "image_pil" | "image_embeds" => IMAGE_CHARS,
        "audio_url" | "input_audio" | "audio_embeds" => AUDIO_CHARS,
        "video" | "video_url" | "input_video" | "input_file" | "document" => VIDEO_CHARS,
        _ => return None,
    })
}
