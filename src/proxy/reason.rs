//! What can become of a request, as closed sets: the words are label values of metrics, the
//! statuses what clients get. PURE.
#![deny(clippy::disallowed_methods)]

use http::StatusCode;

/// Which of its requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leg {
    /// A prompt sent to a prefill endpoint.
    Prefill,
    /// A request sent to the local engine after its body was read.
    Decode,
    /// A WebSocket to the local engine.
    Upgrade,
    /// Anything else sent to the local engine.
    Passthrough,
}

impl Leg {
    /// Every one, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::Prefill,
        Self::Decode,
        Self::Upgrade,
        Self::Passthrough,
    ];
}

/// How a leg ended, up to the head of its answer (prefill: up to the answer's end).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// A status below 400.
    Ok,
    /// A 4xx status.
    ClientError,
    /// A 5xx status.
    ServerError,
    /// No connection.
    Unreachable,
    /// The connection broke, or the answer made no sense.
    Broken,
    /// No answer in time.
    Timeout,
    /// The client left first.
    Cancelled,
}

impl Outcome {
    /// Every one, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::ClientError,
        Self::ServerError,
        Self::Unreachable,
        Self::Broken,
        Self::Timeout,
        Self::Cancelled,
    ];

    /// The outcome a status stands for.
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            ..400 => Self::Ok,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

/// Why a prompt was computed by the decode engine although a prefill endpoint was named.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fallback {
    /// No entry of the header is an endpoint.
    BadTarget,
    /// The prefill Service does not have the endpoint yet.
    NotListed,
    /// No connection to the last one tried.
    Unreachable,
    /// It did not answer in time, or with 408.
    Timeout,
    /// It wanted another key: 401, 403.
    Unauthorized,
    /// It does not know the path or the model: 404.
    NotFound,
    /// It has no room: 429.
    Busy,
    /// Any other 4xx.
    ClientError,
    /// Any 5xx.
    ServerError,
    /// Neither an answer nor an error: a redirect.
    UnexpectedStatus,
    /// Its answer broke off or was no JSON object.
    BrokenAnswer,
    /// Its answer was larger than the bound.
    AnswerTooLarge,
    /// The budget of bytes left no room for its answer.
    NoBudget,
    /// It answered without KV transfer parameters.
    NoParams,
    /// The request's body cannot be edited.
    NotEditable,
    /// The connector chosen by flag is not built in.
    Connector,
}

impl Fallback {
    /// What an endpoint's status other than a success stands for. None of them says that the
    /// request is at fault: only the decode engine can.
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            401 | 403 => Self::Unauthorized,
            404 => Self::NotFound,
            408 => Self::Timeout,
            429 => Self::Busy,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
            _ => Self::UnexpectedStatus,
        }
    }

    /// How the leg ended that failed so.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Unauthorized | Self::NotFound | Self::Busy | Self::ClientError => {
                Outcome::ClientError
            }
            Self::ServerError => Outcome::ServerError,
            Self::Timeout => Outcome::Timeout,
            Self::Unreachable => Outcome::Unreachable,
            _ => Outcome::Broken,
        }
    }
}

/// Why a client got an error from the sidecar itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// A prefill endpoint is not on the allowlist.
    Target,
    /// The path administers the engine.
    AdminPath,
    /// The method asks for a tunnel.
    Method,
    /// The body is larger than the bound.
    TooLarge,
    /// The body did not end in time.
    TimedOut,
    /// The bodies of others fill the budget.
    NoBudget,
    /// As many requests as are allowed are open.
    TooMany,
    /// KV transfer parameters in it cannot be taken out.
    Unsafe,
    /// The body is compressed.
    Encoded,
    /// The client's connection broke inside the body.
    Broken,
}

impl Refusal {
    /// The answer's status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Target | Self::AdminPath => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::NoBudget | Self::TooMany => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unsafe | Self::Broken => StatusCode::BAD_REQUEST,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

macro_rules! words {
    ($kind:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $kind {
            /// The label value.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}
words!(Leg {
    Prefill => "prefill",
    Decode => "decode",
    Upgrade => "upgrade",
    Passthrough => "passthrough",
});
words!(Outcome {
    Ok => "ok",
    ClientError => "client_error",
    ServerError => "server_error",
    Unreachable => "unreachable",
    Broken => "broken",
    Timeout => "timeout",
    Cancelled => "cancelled",
});
words!(Fallback {
    BadTarget => "bad_target",
    NotListed => "not_listed",
    Unreachable => "unreachable",
    Timeout => "timeout",
    Unauthorized => "unauthorized",
    NotFound => "not_found",
    Busy => "busy",
    ClientError => "client_error",
    ServerError => "server_error",
    UnexpectedStatus => "unexpected_status",
    BrokenAnswer => "broken_answer",
    AnswerTooLarge => "answer_too_large",
    NoBudget => "body_budget",
    NoParams => "no_params",
    NotEditable => "not_editable",
    Connector => "connector",
});
words!(Refusal {
    Target => "target_not_allowed",
    AdminPath => "admin_path",
    Method => "method",
    TooLarge => "body_too_large",
    TimedOut => "body_timeout",
    NoBudget => "body_budget",
    TooMany => "too_many_requests",
    Unsafe => "kv_transfer_params",
    Encoded => "body_encoded",
    Broken => "body_broken",
});
