//! What went wrong in a template, and where. PURE.

/// Messages quote the template, which may be a megabyte; they end up in a status field.
const MAX_MESSAGE_CHARS: usize = 500;

/// An error with the place a person can go to.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{template} line {line} column {column}: {message}")]
pub struct Error {
    /// Name of the template: the ConfigMap's key.
    pub template: String,
    /// Line in the template, from 1.
    pub line: u32,
    /// Character in the line, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

/// An error that knows its byte offset only.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(offset: usize, message: impl Into<String>) -> Self {
        Self {
            offset,
            message: message.into(),
        }
    }

    /// Finds line and column in the text.
    pub(super) fn at(self, template: &str, text: &str) -> Error {
        let mut end = self.offset.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Error {
            template: template.to_owned(),
            line: before.matches('\n').count() as u32 + 1,
            column: before[line_start..].chars().count() as u32 + 1,
            message: shortened(self.message),
        }
    }
}

fn shortened(message: String) -> String {
    match message.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    }
}
