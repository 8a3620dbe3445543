//! The bytes of a request body -> the few fields that steer, each read leniently and on its
//! own. PURE.
//!
//! Reading never fails: whether a request is a good one is the engine's to say, in its own
//! words. A field that cannot be read is a field that is not there, and of a body that is no
//! JSON at all there are none. Nothing of the body is copied but texts with escapes.
#![deny(clippy::disallowed_methods)]

mod lenient;
mod prompt;
mod transfer;

use std::borrow::Cow;

use super::api::Api;
use super::scan::{End, Members, Raw, blanks_end};

pub use self::prompt::{
    AUDIO_CHARS, ChatForm, IMAGE_CHARS, MAX_PROMPT_TOKENS, Prompt, VIDEO_CHARS,
};
pub use self::transfer::NotOneTransfer;

/// The longest name of a field that is read.
const MAX_NAME_BYTES: usize = 32;

/// A request, read.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    api: Option<Api>,
    /// All of the body was seen.
    whole: bool,
    /// It is one JSON object.
    sound: bool,
    fields: Fields<'a>,
}

/// Defines a struct of raw values, by the names of their fields.
macro_rules! fields {
    ($($name:ident)*) => {
        /// The last value of every field that is read.
        #[derive(Clone, Copy, Debug, Default)]
        struct Fields<'a> {
            $($name: Option<Raw<'a>>,)*
        }

        impl<'a> Fields<'a> {
            fn set(&mut self, name: &str, value: Raw<'a>) {
                // `null` is how clients write that a field is not there. (Not for `truncation`:
                // there it means "auto".)
                let value = Some(value).filter(|it| !it.is_null() || name == "truncation");
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => {}
                }
            }
        }
    };
}

fields! {
    model stream stream_options cache_salt
    max_tokens max_completion_tokens max_output_tokens
    messages system instructions tools
    prompt prompt_embeds input token_ids
    query queries text_1 data_1 documents items text_2 data_2
    sampling_params n best_of use_beam_search echo logprobs prompt_logprobs
    skip_reading_prefix_cache truncate_prompt_tokens truncation
    previous_response_id conversation background
}

impl<'a> Fields<'a> {
    /// The fields of an object, in one pass.
    fn read(members: &mut Members<'a>) -> Self {
        let mut fields = Self::default();
        for member in members {
            if let Some(name) = member.key.short(MAX_NAME_BYTES) {
                fields.set(&name, member.value);
            }
        }
        fields
    }
}

impl<'a> Request<'a> {
    /// Reads a body sent to this API (`None`: to a path nobody knows, the fields decide).
    /// `whole` is false when only the beginning of the body is there.
    pub fn read(api: Option<Api>, body: &'a [u8], whole: bool) -> Self {
        let mut request = Self {
            api,
            whole,
            sound: false,
            fields: Fields::default(),
        };
        if let Some(mut members) = Members::of(body) {
            request.fields = Fields::read(&mut members);
            request.sound = matches!(
                members.end(),
                Some(End::Closed(at)) if blanks_end(body, at) == body.len()
            );
        }
        request
    }

    /// The API it was sent to.
    pub fn api(&self) -> Option<Api> {
        self.api
    }

    /// The model asked for. `None` when there is none, or something that is not a text: the
    /// engine takes its own or refuses.
    pub fn model(&self) -> Option<Cow<'a, str>> {
        whole(self.fields.model)?.text()
    }

    /// True when the answer is wanted as server-sent events.
    pub fn streams(&self) -> bool {
        whole(self.fields.stream).and_then(lenient::flag) == Some(true)
    }

    /// True when a stream shall end with token counts.
    pub fn streams_usage(&self) -> bool {
        let option = |name| member(self.fields.stream_options, name).and_then(lenient::flag);
        option("include_usage") == Some(true)
    }

    /// Most tokens to generate, under the name that the API has for it.
    pub fn max_tokens(&self) -> Option<u64> {
        let fields = &self.fields;
        let named = match self.api {
            Some(Api::Generate) => [member(fields.sampling_params, "max_tokens"), None, None],
            Some(Api::Responses) => [fields.max_output_tokens, None, None],
            Some(Api::Chat) => [fields.max_completion_tokens, fields.max_tokens, None],
            Some(_) => [fields.max_tokens, None, None],
            None => [
                fields.max_completion_tokens,
                fields.max_tokens,
                fields.max_output_tokens,
            ],
        };
        named
            .into_iter()
            .flatten()
            .find_map(|value| lenient::count(whole(Some(value))?))
    }

    /// Keeps caches of those who use different salts apart (vLLM's field).
    pub fn cache_salt(&self) -> Option<Cow<'a, str>> {
        whole(self.fields.cache_salt)?.text()
    }

    /// The raw list of chat messages, where it is there whole.
    pub fn messages(&self) -> Option<&'a [u8]> {
        let messages = whole(self.fields.messages)?;
        messages.is_array().then(|| messages.bytes())
    }

    /// The raw prompt of a completion, where it is there whole.
    pub fn raw_prompt(&self) -> Option<&'a [u8]> {
        whole(self.fields.prompt).map(Raw::bytes)
    }

    /// The prompt; of a list of prompts the first, of a body that is cut as much as is there.
    /// `None` when there is none, or none that can be read.
    pub fn prompt(&self) -> Option<Prompt<'a>> {
        prompt::of(self.api, &self.fields)
    }

    /// How many prompts there are, each of which an engine computes for itself: of an empty
    /// list none.
    pub fn prompt_count(&self) -> usize {
        prompt::count(self.api, &self.fields)
    }

    /// Whether one transfer of KV cache can serve it: prefill and decode on different engines
    /// give the right answer only then.
    ///
    /// # Errors
    /// The reason why not.
    pub fn one_transfer(&self) -> Result<(), NotOneTransfer> {
        transfer::check(self)
    }
}

/// A value that is there, all of it, and not null.
fn whole(value: Option<Raw<'_>>) -> Option<Raw<'_>> {
    value.filter(|value| value.is_whole() && !value.is_null())
}

/// A member of an object that is a field, likewise. The last of its name counts.
fn member<'a>(object: Option<Raw<'a>>, name: &str) -> Option<Raw<'a>> {
    let members = whole(object)?.members()?;
    let named = members.filter(|member| {
        let key = member.key.short(MAX_NAME_BYTES);
        key.is_some_and(|key| key == name)
    });
    whole(named.last().map(|member| member.value))
}

/// Asks everything that can be asked, of every API.
#[cfg(test)]
pub(crate) fn read_everything(body: &[u8]) {
    let apis = Api::paths().iter().map(|(_, api)| Some(*api));
    for api in apis.chain([None]) {
        let request = Request::read(api, body, true);
        let _ = (request.model(), request.streams(), request.streams_usage());
        let _ = (request.max_tokens(), request.cache_salt());
        let _ = (request.prompt_count(), request.one_transfer());
        if let Some(prompt) = request.prompt() {
            let _ = prompt.chars();
            assert!(prompt.prefix_bytes(100).len() <= 100);
        }
    }
}

#[cfg(test)]
mod tests;
