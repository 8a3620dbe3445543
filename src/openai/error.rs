//! The error body that clients of an API understand, as vLLM writes it. PURE.
#![deny(clippy::disallowed_methods)]

use serde_json::{Value, json};

use super::api::Api;

/// The body of an error answer to a request to this path's API (`None`: any other path).
pub fn body_for(api: Option<Api>, status: u16, message: &str) -> Value {
    match api {
        Some(Api::Messages | Api::CountTokens) => anthropic_body(status, message),
        _ => body(status, message),
    }
}

/// The body of an error answer in OpenAI's form.
pub fn body(status: u16, message: &str) -> Value {
    let kind = match status {
        400 => "BadRequestError",
        401 => "AuthenticationError",
        403 => "PermissionDeniedError",
        404 => "NotFoundError",
        405 => "MethodNotAllowedError",
        408 => "RequestTimeoutError",
        413 => "RequestTooLargeError",
        415 => "UnsupportedMediaTypeError",
        422 => "UnprocessableEntityError",
        429 => "RateLimitError",
        502 => "BadGatewayError",
        503 => "ServiceUnavailableError",
        504 => "GatewayTimeoutError",
        400..500 => "BadRequestError",
        _ => "InternalServerError",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": status}})
}

/// The body of an error answer in Anthropic's form, whose clients know a closed list of types.
pub fn anthropic_body(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_gets_its_own_form() {
        let chat = body_for(Some(Api::Chat), 503, "full");
        assert_eq!(chat, body_for(None, 503, "full"));
        assert_eq!(chat["error"]["type"], "ServiceUnavailableError");
        assert_eq!(
            (&chat["error"]["code"], &chat["error"]["message"]),
            (&json!(503), &json!("full"))
        );
        for api in [Api::Messages, Api::CountTokens] {
            assert_eq!(
                body_for(Some(api), 503, "full"),
                json!({"type": "error", "error": {"type": "overloaded_error", "message": "full"}})
            );
        }
    }

    #[test]
    fn every_status_that_is_sent_has_a_name_of_its_class() {
        for status in [
            400, 401, 403, 404, 405, 408, 413, 415, 418, 422, 429, 500, 502, 503, 504,
        ] {
            let openai = body(status, "")["error"]["type"].to_string();
            let anthropic = anthropic_body(status, "")["error"]["type"].to_string();
            let internal = (
                openai.contains("InternalServer"),
                anthropic.contains("api_error"),
            );
            assert_eq!(
                internal,
                (status == 500, matches!(status, 500 | 502)),
                "{status}"
            );
        }
    }
}
