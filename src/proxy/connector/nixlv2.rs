//! NIXL, second form: the prefill engine computes the prompt and one token, and says in
//! `kv_transfer_params` where its KV blocks are; the decode engine gets that object verbatim
//! and reads them.
//!
//! `serve` sends the legs (IO); the edits of their bodies are PURE.

use bytes::Bytes;
use http::Response;

use super::{Exchange, not_json};
use crate::openai::splice::{Error, Object};
use crate::proxy::body::Body;
use crate::proxy::legs::{Legs, Prefill};
use crate::proxy::metrics::Fallback;
use crate::proxy::params::{self, KV_TRANSFER_PARAMS};
use crate::proxy::route::Api;
use crate::proxy::usage;

/// What makes the prefill engine keep its blocks for another one. vLLM's NIXL connector wants
/// every field, null or not.
const REMOTE_DECODE: &str = r#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}"#;

/// What the decode leg needs of a prefill's answer.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// The KV transfer parameters, raw: an object, or none.
    pub params: Option<String>,
    /// Prompt tokens the prefill engine had in its cache.
    pub cached_tokens: Option<u64>,
}

/// Runs both legs.
pub async fn serve(legs: &Legs, exchange: Exchange) -> Response<Body> {
    let Exchange {
        api,
        mut head,
        body,
        targets,
    } = exchange;
    head.identify();
    let prefill = match prefill_body(api, &body) {
        Ok(prefill) => Bytes::from(prefill),
        Err(error) => return not_json(legs, &error),
    };
    let read = |bytes: &[u8]| read_answer(api, bytes).ok();
    let answer = match legs.prefill(&targets, &head, &prefill, read).await {
        Prefill::Done(answer) => {
            if answer.params.is_none() {
                legs.fell_back(&head, Fallback::NoParams);
            }
            answer
        }
        Prefill::Answer(response) => return *response,
        Prefill::Failed => Answer::default(),
    };
    let (decode, stripped) = match decode_body(&body, answer.params.as_deref()) {
        Ok(edited) => edited,
        Err(error) => return not_json(legs, &error),
    };
    if stripped {
        legs.metrics().stripped();
    }
    // Without a transfer the decode engine's own count is the true one.
    let cached = answer.params.and(answer.cached_tokens);
    let cached = cached.map(|count| (api, count));
    legs.decode(&head, decode, cached).await
}

/// The client's body -> the prefill engine's: compute the prompt, make one token, keep the
/// blocks for another engine.
///
/// # Errors
/// When it is no JSON object, or `sampling_params` is none.
pub fn prefill_body(api: Api, body: &[u8]) -> Result<Vec<u8>, Error> {
    let mut object = Object::read(body)?;
    params::replace(&mut object, REMOTE_DECODE)?;
    object.set("stream", "false");
    object.remove("stream_options");
    match api {
        Api::Chat => {
            object.set("max_tokens", "1");
            object.set("max_completion_tokens", "1");
            object.remove("min_tokens");
        }
        Api::Completions | Api::Messages => {
            object.set("max_tokens", "1");
            object.remove("min_tokens");
        }
        Api::Responses => object.set("max_output_tokens", "1"),
        Api::Generate => {
            object.set_in(&["sampling_params", "max_tokens"], "1")?;
            object.remove_in(&["sampling_params", "min_tokens"])?;
        }
    }
    Ok(object.to_string().into_bytes())
}

/// The prefill engine's answer -> what the decode leg needs of it.
///
/// # Errors
/// When it is no JSON object.
pub fn read_answer(api: Api, bytes: &[u8]) -> Result<Answer, Error> {
    let object = Object::read(bytes)?;
    let params = object.get(KV_TRANSFER_PARAMS);
    let cached = usage::cached_tokens_path(api).and_then(|path| object.get_in(path));
    Ok(Answer {
        params: params
            .filter(|params| params.starts_with('{'))
            .map(str::to_owned),
        cached_tokens: cached.and_then(|count| count.parse().ok()),
    })
}

/// The client's body -> the decode engine's: only the KV transfer parameters differ. True
/// when the client had set some.
///
/// # Errors
/// When it is no JSON object.
pub fn decode_body(body: &Bytes, params: Option<&str>) -> Result<(Bytes, bool), Error> {
    let Some(params) = params else {
        let less = params::strip(body)?;
        let stripped = less.is_some();
        return Ok((less.map_or_else(|| body.clone(), Bytes::from), stripped));
    };
    let mut object = Object::read(body)?;
    let stripped = params::replace(&mut object, params)?;
    Ok((object.to_string().into(), stripped))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefill(api: Api, body: &str) -> String {
        String::from_utf8(prefill_body(api, body.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_prefill_makes_one_token_whatever_the_client_wanted() {
        let kv = format!("\"kv_transfer_params\":{REMOTE_DECODE}");
        assert_eq!(
            prefill(
                Api::Chat,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"max_tokens":500,"min_tokens":9,"seed":9007199254740993}"#
            ),
            format!(
                r#"{{"model":"m","stream":false,"max_tokens":1,"seed":9007199254740993,{kv},"max_completion_tokens":1}}"#
            )
        );
        for api in [Api::Completions, Api::Messages] {
            assert_eq!(
                prefill(api, r#"{"max_tokens":500}"#),
                format!(r#"{{"max_tokens":1,{kv},"stream":false}}"#)
            );
            assert_eq!(
                prefill(api, "{}"),
                format!(r#"{{{kv},"stream":false,"max_tokens":1}}"#)
            );
        }
        assert_eq!(
            prefill(Api::Responses, r#"{"max_output_tokens":7,"max_tokens":3}"#),
            format!(r#"{{"max_output_tokens":1,"max_tokens":3,{kv},"stream":false}}"#)
        );
        assert_eq!(
            prefill(
                Api::Generate,
                r#"{"sampling_params":{"min_tokens":3,"seed":1,"max_tokens":9}}"#
            ),
            format!(r#"{{"sampling_params":{{"seed":1,"max_tokens":1}},{kv},"stream":false}}"#)
        );
        assert_eq!(
            prefill(Api::Generate, r#"{"token_ids":[1]}"#),
            format!(
                r#"{{"token_ids":[1],{kv},"stream":false,"sampling_params":{{"max_tokens":1}}}}"#
            )
        );
    }

    #[test]
    fn a_body_that_cannot_be_edited_is_an_error() {
        assert!(prefill_body(Api::Chat, b"[]").is_err());
        assert!(prefill_body(Api::Generate, br#"{"sampling_params":3}"#).is_err());
    }

    #[test]
    fn of_an_answer_only_an_object_counts() {
        let read = |text: &str| read_answer(Api::Chat, text.as_bytes()).unwrap();
        assert_eq!(
            read(
                r#"{"kv_transfer_params":{"remote_block_ids":[18446744073709551616]},"usage":{"prompt_tokens_details":{"cached_tokens":12}}}"#
            ),
            Answer {
                params: Some(r#"{"remote_block_ids":[18446744073709551616]}"#.to_owned()),
                cached_tokens: Some(12),
            }
        );
        for text in [
            "{}",
            r#"{"kv_transfer_params":null}"#,
            r#"{"kv_transfer_params":[1]}"#,
        ] {
            assert_eq!(read(text), Answer::default(), "{text}");
        }
        assert!(read_answer(Api::Chat, b"ok").is_err());
    }
}
