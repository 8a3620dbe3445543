//! The error body that OpenAI clients understand, as vLLM writes it. PURE.

use serde_json::{Value, json};

/// The body of an error answer.
pub fn body(status: u16, message: &str) -> Value {
    let kind = match status {
        400 => "BadRequestError",
        403 => "PermissionDeniedError",
        404 => "NotFoundError",
        413 => "RequestTooLargeError",
        415 => "UnsupportedMediaTypeError",
        429 => "RateLimitError",
        503 => "ServiceUnavailableError",
        _ => "InternalServerError",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": status}})
}
