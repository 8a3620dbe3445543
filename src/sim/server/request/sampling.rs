//! The fields that say how tokens are chosen -> checked values. PURE.
#![deny(clippy::disallowed_methods)]

use serde_json::Value;

use super::Problem;
use crate::sim::python::Py;
use crate::sim::python::lax::{self, Fault, Fields};

/// vLLM's own limits.
const MAX_STOP_STRINGS: usize = 4;
const MAX_SAMPLES: i128 = 16_384;
const MAX_LOGPROBS: i128 = 20;

/// How tokens are chosen, and when no more are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::sim::server) struct Sampling {
    /// Samples for each prompt.
    pub(in crate::sim::server) n: usize,
    /// As asked; `None` where the request does not say.
    pub(in crate::sim::server) max_tokens: Option<i128>,
    pub(in crate::sim::server) min_tokens: usize,
    pub(in crate::sim::server) ignore_eos: bool,
    pub(in crate::sim::server) seed: Option<i64>,
    /// Temperature 0: no seed matters.
    pub(in crate::sim::server) greedy: bool,
    pub(in crate::sim::server) stop: Vec<String>,
    pub(in crate::sim::server) stop_token_ids: Vec<i128>,
    /// Stop strings stay in the text.
    pub(in crate::sim::server) include_stop: bool,
    /// Alternatives told for each generated token.
    pub(in crate::sim::server) logprobs: Option<usize>,
    /// Alternatives told for each token of the prompt.
    pub(in crate::sim::server) prompt_logprobs: Option<usize>,
    pub(in crate::sim::server) cache_salt: Option<String>,
    /// `kv_transfer_params`, or null.
    pub(in crate::sim::server) transfer: Value,
}

impl Sampling {
    /// What makes one sample differ from another of the same prompt.
    pub(in crate::sim::server) fn salt(&self, index: usize) -> u64 {
        if self.greedy {
            return 0;
        }
        let seed = self.seed.unwrap_or_default().cast_unsigned();
        seed.wrapping_add(index as u64)
    }
}

/// The numbers as a request has them, before they are checked.
#[derive(Clone, Debug, Default)]
pub(in crate::sim::server) struct Numbers {
    pub(in crate::sim::server) n: Option<i128>,
    pub(in crate::sim::server) max_tokens: Option<i128>,
    pub(in crate::sim::server) logprobs: Option<i128>,
    pub(in crate::sim::server) prompt_logprobs: Option<i128>,
    min_tokens: i128,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i128>,
    min_p: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    seed: Option<i128>,
    stop: Vec<String>,
    stop_token_ids: Vec<i128>,
    ignore_eos: bool,
    include_stop: bool,
    cache_salt: Option<String>,
    transfer: Value,
}

impl Numbers {
    /// Reads the fields that chat and completions share; others have a part of them.
    pub(in crate::sim::server) fn read(fields: &mut Fields<'_>) -> Self {
        let seed = |value: &Py, at: &str| {
            lax::int_between(value, at, i128::from(i64::MIN), i128::from(i64::MAX))
        };
        let basic = Self::basic(fields);
        Self {
            frequency_penalty: fields.optional("frequency_penalty", lax::float),
            presence_penalty: fields.optional("presence_penalty", lax::float),
            seed: fields.optional("seed", seed),
            stop: stop(fields, "stop"),
            min_p: fields.optional("min_p", lax::float),
            repetition_penalty: fields.optional("repetition_penalty", lax::float),
            stop_token_ids: fields
                .optional_list("stop_token_ids", lax::int)
                .unwrap_or_default(),
            include_stop: fields.plain("include_stop_str_in_output", false, lax::bool),
            ignore_eos: fields.plain("ignore_eos", false, lax::bool),
            min_tokens: fields.plain("min_tokens", 0, lax::int),
            prompt_logprobs: fields.optional("prompt_logprobs", lax::int),
            ..basic
        }
    }

    /// Reads the fields that Anthropic's API has, too.
    pub(in crate::sim::server) fn basic(fields: &mut Fields<'_>) -> Self {
        Self {
            temperature: fields.optional("temperature", lax::float),
            top_p: fields.optional("top_p", lax::float),
            top_k: fields.optional("top_k", lax::int),
            cache_salt: fields.optional("cache_salt", lax::text).map(str::to_owned),
            transfer: super::transfer_parameters(fields),
            ..Self::default()
        }
    }

    /// Stop strings of a field with another name.
    pub(in crate::sim::server) fn set_stop(&mut self, stop: Vec<String>) {
        self.stop = stop;
    }

    /// The temperature in force.
    pub(in crate::sim::server) fn temperature(&self) -> f64 {
        self.temperature.unwrap_or(1.0)
    }

    /// The share of likely tokens in force.
    pub(in crate::sim::server) fn top_p(&self) -> f64 {
        self.top_p.unwrap_or(1.0)
    }

    /// Fields that stand beside these where these are in an object of their own.
    pub(in crate::sim::server) fn outside(&mut self, fields: &mut Fields<'_>) {
        let salt = fields.optional("cache_salt", lax::text);
        self.cache_salt = salt.map(str::to_owned);
        self.transfer = super::transfer_parameters(fields);
    }

    /// What vLLM's `SamplingParams` refuses. The limit of tokens is checked with the prompt.
    pub(in crate::sim::server) fn verified(self) -> Result<Sampling, Problem> {
        let n = self.n.unwrap_or(1);
        if n < 1 {
            return Err(Problem::bad(format!("n must be at least 1, got {n}.")));
        }
        if n > MAX_SAMPLES {
            return Err(Problem::bad(format!(
                "n must be at most {MAX_SAMPLES}, got {n}. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
            )));
        }
        self.verify_numbers()?;
        if self.min_tokens < 0 {
            return Err(Problem::bad(format!(
                "min_tokens must be greater than or equal to 0, got {}.",
                self.min_tokens
            )));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Problem::bad("stop cannot contain an empty string."));
        }
        let greedy = self
            .temperature
            .is_some_and(|temperature| temperature < 1e-5);
        if greedy && n > 1 {
            return Err(Problem::bad(format!(
                "n must be 1 when using greedy sampling, got {n}."
            )));
        }
        let max = |count: Option<i128>, what: &str, field: &str| match count {
            None => Ok(None),
            Some(count) if !(0..=MAX_LOGPROBS).contains(&count) => Err(Problem::value(
                &format!(
                    "Requested {what} logprobs of {count}, which is greater than max allowed: {MAX_LOGPROBS}"
                ),
                field,
                &count.to_string(),
            )),
            Some(count) => Ok(Some(count as usize)),
        };
        Ok(Sampling {
            n: n as usize,
            max_tokens: self.max_tokens,
            min_tokens: usize::try_from(self.min_tokens).unwrap_or(usize::MAX),
            ignore_eos: self.ignore_eos,
            seed: self.seed.and_then(|seed| i64::try_from(seed).ok()),
            greedy,
            stop: self.stop,
            stop_token_ids: self.stop_token_ids,
            include_stop: self.include_stop,
            logprobs: max(self.logprobs, "sample", "logprobs")?,
            prompt_logprobs: max(self.prompt_logprobs, "prompt", "prompt_logprobs")?,
            cache_salt: self.cache_salt,
            transfer: self.transfer,
        })
    }

    fn verify_numbers(&self) -> Result<(), Problem> {
        for (name, penalty) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            if let Some(penalty) = penalty.filter(|penalty| !(-2.0..=2.0).contains(penalty)) {
                let penalty = Py::Float(penalty).repr();
                return Err(Problem::bad(format!(
                    "{name} must be in [-2, 2], got {penalty}."
                )));
            }
        }
        let wrong = |value: f64, field: &str, message: &str| {
            let value = Py::Float(value).repr();
            Problem::value(&format!("{field} {message}, got {value}."), field, &value)
        };
        if let Some(value) = self.repetition_penalty {
            let text = Py::Float(value).repr();
            if !value.is_finite() {
                return Err(Problem::bad(format!(
                    "repetition_penalty must be a finite number, got {text}."
                )));
            }
            if value <= 0.0 {
                return Err(Problem::bad(format!(
                    "repetition_penalty must be greater than zero, got {text}."
                )));
            }
        }
        if let Some(value) = self.temperature {
            if !value.is_finite() {
                return Err(wrong(value, "temperature", "must be a finite number"));
            }
            if value < 0.0 {
                return Err(wrong(value, "temperature", "must be non-negative"));
            }
            if value > 2.0 {
                return Err(wrong(value, "temperature", "must be in [0, 2]"));
            }
        }
        if let Some(value) = self.top_p.filter(|value| !(*value > 0.0 && *value <= 1.0)) {
            return Err(wrong(value, "top_p", "must be in (0, 1]"));
        }
        if let Some(value) = self.top_k.filter(|value| *value < -1) {
            return Err(Problem::bad(format!(
                "top_k must be 0 (disable), or at least 1, got {value}."
            )));
        }
        if let Some(value) = self.min_p.filter(|value| !(0.0..=1.0).contains(value)) {
            let value = Py::Float(value).repr();
            return Err(Problem::bad(format!(
                "min_p must be in [0, 1], got {value}."
            )));
        }
        Ok(())
    }
}

/// A text, or up to four.
pub(in crate::sim::server) fn stop(fields: &mut Fields<'_>, name: &str) -> Vec<String> {
    let Some(value) = fields.raw(name).filter(|value| !value.is_none()) else {
        return Vec::new();
    };
    if let Some(text) = value.as_str() {
        return vec![text.to_owned()];
    }
    let before = fields.faults.len();
    let stops = stops(fields, name);
    if fields.faults.len() > before {
        // Nor is it a single text.
        let fault = lax::text(value, &fields.path(name)).err();
        fields.faults.splice(before..before, fault);
    }
    stops
}

/// Up to four texts.
pub(in crate::sim::server) fn stops(fields: &mut Fields<'_>, name: &str) -> Vec<String> {
    let Some(value) = fields.raw(name).filter(|value| !value.is_none()) else {
        return Vec::new();
    };
    let path = fields.path(name);
    let texts = match lax::list(value, &path, lax::text) {
        Ok(texts) => texts,
        Err(faults) => {
            fields.faults.extend(faults);
            return Vec::new();
        }
    };
    let count = texts.len();
    if count <= MAX_STOP_STRINGS {
        return texts.into_iter().map(str::to_owned).collect();
    }
    let message =
        format!("List should have at most {MAX_STOP_STRINGS} items after validation, not {count}");
    let context =
        format!("'field_type': 'List', 'max_length': {MAX_STOP_STRINGS}, 'actual_length': {count}");
    let fault = Fault::new("too_long", &path, message, value).with(context);
    fields.faults.push(fault);
    Vec::new()
}

/// True for a number of logprobs, or for all of them.
pub(in crate::sim::server) fn asks_for_logprobs(value: &Py) -> bool {
    value.is_number(-1) || value.number().is_some_and(|count| count > 0.0)
}

/// Checks of logprobs on the raw body: they must be numbers, and be told at all.
pub(in crate::sim::server) fn check_logprobs(body: &Py, own: &str) -> Result<(), Problem> {
    for field in ["prompt_logprobs", own] {
        let value = body.get(field).filter(|value| !value.is_none());
        if let Some(value) = value.filter(|value| value.number().is_none()) {
            let message = format!("`{field}` must be an integer.");
            return Err(Problem::value(&message, field, &value.text()));
        }
    }
    let stream = body.get("stream").is_some_and(Py::truthy);
    if stream && body.get("prompt_logprobs").is_some_and(asks_for_logprobs) {
        let message = "`prompt_logprobs` are not available when `stream=True`.";
        return Err(Problem::field(message, "prompt_logprobs"));
    }
    for field in ["prompt_logprobs", own] {
        let negative = |value: &&Py| value.number().is_some_and(|count| count < 0.0);
        let value = body.get(field).filter(negative);
        if let Some(value) = value.filter(|value| !value.is_number(-1)) {
            let message = format!("`{field}` must be a positive value or -1.");
            return Err(Problem::value(&message, field, &value.text()));
        }
    }
    Ok(())
}
