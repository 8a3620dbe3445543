//! NIXL, second form: the prefill engine computes the prompt and one token, and says in
//! `kv_transfer_params` where its KV blocks are; the decode engine gets that object verbatim
//! and reads them.
//!
//! `serve` sends the legs (IO); the edits of their bodies are PURE.

use bytes::Bytes;
use http::Response;

use super::{Exchange, decode_only, not_safe};
use crate::openai::api::Api;
use crate::openai::splice::{Error, Object};
use crate::proxy::body::{Body, Edited};
use crate::proxy::heavy;
use crate::proxy::legs::Legs;
use crate::proxy::legs::prefill::Prefill;
use crate::proxy::params::{self, KV_TRANSFER_PARAMS};
use crate::proxy::reason::Fallback;
use crate::proxy::usage;

/// What makes the prefill engine keep its blocks for another one. vLLM's NIXL connector wants
/// every field, null or not.
const REMOTE_DECODE: &str = r#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}"#;

/// Members that ask for more than the KV cache of a prompt: more samples, log probabilities,
/// the prompt's text or tokens again, a least number of tokens, a stream, an answer later.
const NOT_FOR_PREFILL: &[&str] = &[
    "stream_options",
    "min_tokens",
    "best_of",
    "use_beam_search",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "echo",
    "return_token_ids",
    "include",
    "background",
];

/// What the decode leg needs of a prefill's answer.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// The KV transfer parameters, raw: an object, or none.
    pub params: Option<Bytes>,
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
    let client = body.clone();
    let edit = move || {
        prefill_body(api, &client).map(|object| Edited::of(&client, |each| object.pieces(each)))
    };
    let Ok(prefill) = heavy::run(body.len(), edit).await else {
        legs.fell_back(&head, Fallback::NotEditable);
        return decode_only(legs, &head, body).await;
    };
    let read = move |bytes: &Bytes| read_answer(api, bytes).ok();
    let answer = match legs.prefill(&targets, &head, &prefill, read).await {
        Prefill::Done(answer) => {
            if answer.params.is_none() {
                legs.fell_back(&head, Fallback::NoParams);
            }
            answer
        }
        Prefill::Forbidden(response) => return *response,
        Prefill::Failed => Answer::default(),
    };
    drop(prefill);
    let Some(params) = answer.params else {
        return decode_only(legs, &head, body).await;
    };
    let bytes = body.len();
    let edit = move || {
        let (object, stripped) = decode_body(&body, &params)?;
        Ok((Edited::of(&body, |each| object.pieces(each)), stripped))
    };
    match heavy::run(bytes, edit).await {
        Ok((decode, stripped)) => {
            if stripped {
                legs.metrics().stripped();
            }
            legs.decode(&head, decode, answer.cached_tokens).await
        }
        Err(error) => not_safe(legs, &head, &error),
    }
}

/// The client's body -> the prefill engine's: compute the prompt, make one token, keep the
/// blocks for another engine. Everything that shapes the prompt stays.
///
/// # Errors
/// When it is no JSON object, or `sampling_params` is none.
pub fn prefill_body(api: Api, body: &[u8]) -> Result<Object<'_>, Error> {
    let mut object = Object::read(body)?;
    params::replace(&mut object, REMOTE_DECODE)?;
    object.set("stream", "false");
    for key in NOT_FOR_PREFILL {
        object.remove(key);
    }
    // One sample is the default: only another number has to be said.
    if object.get("n").is_some() {
        object.set("n", "1");
    }
    match api {
        Api::Chat => {
            object.set("max_tokens", "1");
            object.set("max_completion_tokens", "1");
        }
        Api::Responses => {
            object.set("max_output_tokens", "1");
            if object.get("store").is_some() {
                object.set("store", "false");
            }
        }
        Api::Generate => {
            for key in NOT_FOR_PREFILL {
                object.remove_in(&["sampling_params", key])?;
            }
            if object.get_in(&["sampling_params", "n"]).is_some() {
                object.set_in(&["sampling_params", "n"], "1")?;
            }
            object.set_in(&["sampling_params", "max_tokens"], "1")?;
        }
        _ => object.set("max_tokens", "1"),
    }
    Ok(object)
}

/// The prefill engine's answer -> what the decode leg needs of it.
///
/// # Errors
/// When it is no JSON object.
pub fn read_answer(api: Api, bytes: &Bytes) -> Result<Answer, Error> {
    let object = Object::read(bytes)?;
    let params = object.get(KV_TRANSFER_PARAMS);
    let cached = usage::cached_tokens_path(api).and_then(|path| object.get_in(path));
    Ok(Answer {
        params: params
            .filter(|params| serde_json::from_str::<Params>(params).is_ok())
            .map(|params| bytes.slice_ref(params.as_bytes())),
        cached_tokens: cached.and_then(|count| count.parse().ok()),
    })
}

/// An object of whatever it holds: what another machine sent goes into a request to the engine
/// only where it is JSON, to its end.
type Params<'a> =
    std::collections::HashMap<std::borrow::Cow<'a, str>, &'a serde_json::value::RawValue>;

/// The client's body -> the decode engine's: only the KV transfer parameters differ. True
/// when the client had set some.
///
/// # Errors
/// When it is no JSON object.
pub fn decode_body<'a>(body: &'a [u8], params: &[u8]) -> Result<(Object<'a>, bool), Error> {
    let mut object = Object::read(body)?;
    let text = std::str::from_utf8(params).map_err(|_| Error::NotAnObject)?;
    let stripped = params::replace(&mut object, text)?;
    Ok((object, stripped))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefill(api: Api, body: &str) -> String {
        prefill_body(api, body.as_bytes()).unwrap().to_string()
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
        let sampling = r#"{"n":1,"best_of":1,"logprobs":3,"prompt_logprobs":0,"temperature":0}"#;
        assert_eq!(
            prefill(
                Api::Generate,
                &format!("{{\"sampling_params\":{sampling}}}")
            ),
            format!(
                r#"{{"sampling_params":{{"n":1,"temperature":0,"max_tokens":1}},{kv},"stream":false}}"#
            )
        );
        assert_eq!(
            prefill(Api::Generate, r#"{"token_ids":[1]}"#),
            format!(
                r#"{{"token_ids":[1],{kv},"stream":false,"sampling_params":{{"max_tokens":1}}}}"#
            )
        );
    }

    #[test]
    fn a_prefill_asks_for_nothing_but_the_prompt() {
        let kv = format!("\"kv_transfer_params\":{REMOTE_DECODE}");
        let greedy = r#"{"n":1,"best_of":1,"logprobs":true,"top_logprobs":5,"prompt_logprobs":0,"echo":false,"use_beam_search":false,"return_token_ids":true,"tools":[{"x":1}],"tool_choice":"auto","lo\u0067probs":1}"#;
        assert_eq!(
            prefill(Api::Completions, greedy),
            format!(
                r#"{{"n":1,"tools":[{{"x":1}}],"tool_choice":"auto",{kv},"stream":false,"max_tokens":1}}"#
            )
        );
        assert_eq!(
            prefill(
                Api::Responses,
                r#"{"background":true,"store":true,"include":["message.output_text.logprobs"],"top_logprobs":3}"#
            ),
            format!(r#"{{"store":false,{kv},"stream":false,"max_output_tokens":1}}"#)
        );
    }

    #[test]
    fn a_body_that_cannot_be_edited_is_an_error() {
        assert!(prefill_body(Api::Chat, b"[]").is_err());
        assert!(prefill_body(Api::Generate, br#"{"sampling_params":3}"#).is_err());
    }

    #[test]
    fn of_an_answer_only_an_object_counts() {
        let read = |text: &'static str| read_answer(Api::Chat, &Bytes::from(text)).unwrap();
        assert_eq!(
            read(
                r#"{"kv_transfer_params":{"remote_block_ids":[18446744073709551616]},"usage":{"prompt_tokens_details":{"cached_tokens":12}}}"#
            ),
            Answer {
                params: Some(Bytes::from(
                    r#"{"remote_block_ids":[18446744073709551616]}"#
                )),
                cached_tokens: Some(12),
            }
        );
        for text in [
            "{}",
            r#"{"kv_transfer_params":null}"#,
            r#"{"kv_transfer_params":[1]}"#,
            r#"{"kv_transfer_params":{"a":1,}}"#,
            r#"{"kv_transfer_params":{"a":NaN}}"#,
            r#"{"kv_transfer_params":{"a":"\u00"}}"#,
        ] {
            assert_eq!(read(text), Answer::default(), "{text}");
        }
        assert!(read_answer(Api::Chat, &Bytes::from("ok")).is_err());
    }
}
