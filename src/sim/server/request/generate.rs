//! `POST /inference/v1/generate`: tokens in, tokens out -> what it asks of the engine.

use serde_json::json;

use super::sampling::Numbers;
use super::{Ask, Problem, Sim};
use crate::sim::python::Py;
use crate::sim::python::lax::{self, Fault, Fields};

impl Sim {
    /// Reads and checks.
    pub(in crate::sim::server) fn read_generate(&self, body: &Py) -> Result<Ask, Problem> {
        super::check_cache_salt(body)?;
        let mut fields = super::fields(body)?;
        let given = fields.raw("token_ids");
        let numbers = fields.required_list("token_ids", lax::int);
        if let (Some(given), Some(numbers)) = (given, &numbers) {
            fields.faults.extend(check_tokens(given, numbers));
        }
        let model = fields.optional("model", lax::text);
        let sampling = fields.required("sampling_params");
        let mut numbers_of = Numbers::default();
        if let Some(sampling) = sampling
            && let Some(mut inner) =
                fields.take(Fields::new(sampling, &fields.path("sampling_params")))
        {
            numbers_of = Numbers::read(&mut inner);
            numbers_of.n = inner.optional("n", lax::int);
            numbers_of.max_tokens = inner.optional("max_tokens", lax::int);
            numbers_of.logprobs = inner.optional("logprobs", lax::int);
            fields.faults.append(&mut inner.faults);
        }
        let (stream, usage) = super::streaming(&mut fields);
        let return_token_ids = fields.optional("return_token_ids", lax::bool) == Some(true);
        let text = fields.raw("output_mode").and_then(Py::as_str) == Some("text");
        let id = fields.plain("request_id", "", lax::text).to_owned();
        numbers_of.outside(&mut fields);
        super::checked(&fields)?;

        let (model, lora) = self.served(model)?;
        let tokens = super::tokens(&numbers.unwrap_or_default())?;
        let sampling = numbers_of.verified()?;
        let prompt = self.prompt(tokens, &sampling, None)?;
        Ok(Ask {
            model,
            lora,
            id: Some(id).filter(|id| !id.is_empty()),
            prompts: vec![prompt],
            sampling,
            stream,
            usage,
            echo: false,
            only_echo: false,
            return_token_ids,
            call: None,
            view: json!({"text": text}),
        })
    }
}

fn check_tokens(given: &Py, numbers: &[i128]) -> Option<Fault> {
    let at = "body.token_ids";
    if numbers.is_empty() {
        let message = "List should have at least 1 item after validation, not 0";
        let context = "'field_type': 'List', 'min_length': 1, 'actual_length': 0";
        let fault = Fault::new("too_short", at, message, given);
        return Some(fault.with(context.to_owned()));
    }
    let negative = numbers.iter().any(|number| *number < 0);
    negative.then(|| value_error(at, "token_ids must not contain negative values", given))
}

/// What a validator of vLLM's raises inside pydantic.
pub(super) fn value_error(at: &str, message: &str, value: &Py) -> Fault {
    let told = format!("Value error, {message}");
    let context = format!("'error': ValueError({})", Py::from_text(message).repr());
    Fault::new("value_error", at, told, value).with(context)
}
