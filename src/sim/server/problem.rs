//! Why a request is refused -> the error that vLLM answers with. PURE.
#![deny(clippy::disallowed_methods)]

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::sim::engine::Refused;
use crate::sim::python::lax::{Fault, told};
use crate::sim::python::{Py, read};

/// Why a request is refused, as the client will hear it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// vLLM's word for the kind.
    pub(super) kind: &'static str,
    /// The field it is about.
    pub(super) field: Option<String>,
}

impl Problem {
    /// A request that the engine's own checks refuse.
    pub(super) fn bad(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Any other status, of the kind that vLLM has for it.
    pub(super) fn new(status: StatusCode, message: impl ToString) -> Self {
        let kind = match status.as_u16() {
            400 => "BadRequestError",
            404 => "NotFoundError",
            429 => "TooManyRequestsError",
            503 => "ServiceUnavailableError",
            code if code < 500 => status.canonical_reason().unwrap_or("BadRequestError"),
            _ => "InternalServerError",
        };
        Self {
            status,
            message: message.to_string(),
            kind,
            field: None,
        }
    }

    /// A check of one field; vLLM repeats the field behind its message.
    pub(super) fn field(message: &str, field: &str) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::bad(format!("{message} (parameter={field})"))
        }
    }

    /// The same with the value that is wrong.
    pub(super) fn value(message: &str, field: &str, value: &str) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::bad(format!("{message} (parameter={field}, value={value})"))
        }
    }

    /// What FastAPI refuses before vLLM sees the request.
    fn framework(message: String, field: Option<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message,
            kind: "Bad Request",
            field,
        }
    }

    /// True where pydantic refuses the request, before vLLM's own code sees it.
    pub(super) fn is_of_types(&self) -> bool {
        self.kind == "Bad Request"
    }

    /// Fields of the wrong type.
    pub(super) fn faults(faults: &[Fault]) -> Self {
        let (message, field) = told(faults);
        Self::framework(message, field)
    }

    /// A status that the web framework answers with by itself.
    pub(super) fn http(status: StatusCode) -> Self {
        let phrase = status.canonical_reason().unwrap_or("Error");
        Self {
            status,
            message: phrase.to_owned(),
            kind: phrase,
            field: None,
        }
    }

    /// A body of another type than JSON.
    pub(super) fn media_type() -> Self {
        let message =
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed";
        Self::framework(message.to_owned(), None)
    }

    /// The JSON body of the answer.
    pub(super) fn body(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.kind,
            "param": self.field, "code": self.status.as_u16(),
        }})
    }

    /// The same in Anthropic's form, which vLLM uses for what its own checks refuse.
    pub(super) fn anthropic(&self) -> Value {
        if self.is_of_types() {
            return self.body();
        }
        json!({"type": "error", "error": {"type": self.kind, "message": self.message}})
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::QueueFull(_) => StatusCode::TOO_MANY_REQUESTS,
            Refused::Empty | Refused::TooLong { .. } | Refused::NeverFits { .. } => {
                StatusCode::BAD_REQUEST
            }
        };
        Self::new(status, refused)
    }
}

impl From<read::Error> for Problem {
    fn from(error: read::Error) -> Self {
        match error {
            read::Error::Json { message, at } => {
                let at = format!("body.{at}");
                let nothing = Py::Dict(Vec::new());
                let context = format!("'error': {}", Py::Str(message.to_owned()).repr());
                let fault = Fault::new("json_invalid", &at, "JSON decode error", &nothing);
                Self::faults(&[fault.with(context)])
            }
            read::Error::Unreadable => Self {
                message: error.to_string(),
                ..Self::http(StatusCode::BAD_REQUEST)
            },
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self::faults(&[fault])
    }
}
