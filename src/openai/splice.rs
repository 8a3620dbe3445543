//! The text of a JSON object + edits of single members -> the same text with only those
//! members changed. PURE.
//!
//! Nothing is built from the text and written again: a map would sort keys, lose integers
//! above 2^53 and fold duplicates. Every byte that no edit names stays where it is.

#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::scan::{End, Members, Raw, blanks_end};

/// Most members of one object: a short body of many tiny members would else take many times
/// its size in memory.
pub const MAX_MEMBERS: usize = 4096;

/// Why a text cannot be edited.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The object is cut off, or its members are not where they should be.
    #[error("invalid JSON at line {line} column {column}: {message}")]
    Json {
        /// Line in the text, from 1.
        line: usize,
        /// Column in the line, from 1, in bytes.
        column: usize,
        /// What should have stood there.
        message: String,
    },
    /// The text is no object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A member on the way to the edited one is neither an object nor null.
    #[error("member {key:?} is not an object")]
    MemberNotAnObject {
        /// The member's key.
        key: String,
    },
    /// The object has more than [`MAX_MEMBERS`] members.
    #[error("the object has more than {MAX_MEMBERS} members")]
    TooManyMembers,
}

/// A JSON object's text, where its members are, and the edits asked for so far.
///
/// Duplicate keys: the last one counts when reading, as in Python's and serde's maps.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    text: &'a [u8],
    /// Offset behind the opening brace.
    inside: usize,
    members: Vec<Member<'a>>,
    added: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug)]
struct Member<'a> {
    key: Cow<'a, str>,
    /// Offset of the key's opening quote.
    start: usize,
    value: Range<usize>,
    now: Now,
}

/// What becomes of a member.
#[derive(Clone, Debug)]
enum Now {
    Same,
    Gone,
    Other(Vec<u8>),
}

impl<'a> Object<'a> {
    /// Finds the members of the object. What their values look like inside is not checked: that
    /// is for whoever reads them.
    ///
    /// # Errors
    /// When the bytes are not one JSON object, or one with too many members.
    pub fn read(body: &'a [u8]) -> Result<Self, Error> {
        let Some(mut found) = Members::of(body) else {
            let start = blanks_end(body, 0);
            return Err(if start == body.len() {
                broken(body, start, "a JSON object")
            } else {
                Error::NotAnObject
            });
        };
        let brace = body.iter().position(|byte| *byte == b'{');
        let inside = brace.expect("there are members, so there is a brace") + 1;
        let mut members = Vec::new();
        for member in found.by_ref() {
            if members.len() == MAX_MEMBERS {
                return Err(Error::TooManyMembers);
            }
            members.push(Member {
                key: member.key.decode(),
                start: member.start,
                value: member.value_start..member.value_start + member.value.bytes().len(),
                now: Now::Same,
            });
        }
        match found.end() {
            Some(End::Closed(at)) => {
                let rest = blanks_end(body, at);
                if rest < body.len() {
                    return Err(broken(body, rest, "the end"));
                }
            }
            Some(End::Broken { at, expected }) => return Err(broken(body, at, expected)),
            Some(End::Cut) | None => return Err(broken(body, body.len(), "more")),
        }
        Ok(Self {
            text: body,
            inside,
            members,
            added: Vec::new(),
        })
    }

    /// The raw JSON of a member, edits included. `None` also where it is not UTF-8.
    pub fn get(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.get_bytes(key)?).ok()
    }

    /// The same, whatever its bytes are.
    pub fn get_bytes(&self, key: &str) -> Option<&[u8]> {
        let added = self.added.iter().find(|(name, _)| name == key);
        added.map(|(_, value)| value.as_slice()).or_else(|| {
            let mut here = self.members.iter().rev();
            here.find_map(|member| member.current(self.text).filter(|_| member.key == key))
        })
    }

    /// The raw JSON of a member inside nested objects; `None` where any step is missing or is
    /// no object.
    pub fn get_in(&self, path: &[&str]) -> Option<String> {
        let (key, rest) = path.split_first()?;
        if rest.is_empty() {
            return self.get(key).map(str::to_owned);
        }
        Object::read(self.get_bytes(key)?).ok()?.get_in(rest)
    }

    /// Gives a member this value, which must be valid JSON: in the place of the first member
    /// of that key (others of the same key go), or behind the last member.
    pub fn set(&mut self, key: &str, value: &str) {
        self.set_bytes(key, value.as_bytes());
    }

    fn set_bytes(&mut self, key: &str, value: &[u8]) {
        let mut placed = false;
        for member in &mut self.members {
            if member.key != key || matches!(member.now, Now::Gone) {
                continue;
            }
            member.now = if placed {
                Now::Gone
            } else {
                Now::Other(value.to_vec())
            };
            placed = true;
        }
        if placed {
            return;
        }
        match self.added.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.added.push((key.to_owned(), value.to_vec())),
        }
    }

    /// Takes out every member of this key. True when there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.added.len();
        self.added.retain(|(name, _)| name != key);
        let mut removed = self.added.len() < before;
        for member in &mut self.members {
            if member.key == key && !matches!(member.now, Now::Gone) {
                member.now = Now::Gone;
                removed = true;
            }
        }
        removed
    }

    /// [`Object::set`] inside nested objects. Objects that are missing or null are made.
    ///
    /// # Errors
    /// When a member on the way has another kind of value, or too many members.
    pub fn set_in(&mut self, path: &[&str], value: &str) -> Result<(), Error> {
        let Some((key, rest)) = path.split_first() else {
            return Ok(());
        };
        if rest.is_empty() {
            self.set(key, value);
            return Ok(());
        }
        let inner = match self.get_bytes(key) {
            None | Some(b"null") => b"{}",
            Some(text) => text,
        };
        let mut inner = Object::read(inner).map_err(|error| at(key, error))?;
        inner.set_in(rest, value)?;
        let inner = inner.to_bytes();
        self.set_bytes(key, &inner);
        Ok(())
    }

    /// [`Object::remove`] inside nested objects, through every duplicate on the way. True when
    /// there was such a member.
    ///
    /// # Errors
    /// When an object on the way has too many members to look into.
    pub fn remove_in(&mut self, path: &[&str]) -> Result<bool, Error> {
        let Some((key, rest)) = path.split_first() else {
            return Ok(false);
        };
        if rest.is_empty() {
            return Ok(self.remove(key));
        }
        let mut removed = false;
        for member in self.members.iter_mut().filter(|member| member.key == *key) {
            if let Some(value) = member.current(self.text)
                && let Some(less) = without(value, rest)?
            {
                member.now = Now::Other(less);
                removed = true;
            }
        }
        for (_, value) in self.added.iter_mut().filter(|(name, _)| name == key) {
            if let Some(less) = without(value, rest)? {
                *value = less;
                removed = true;
            }
        }
        Ok(removed)
    }

    /// The edited text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let added = self
            .added
            .iter()
            .map(|(key, value)| key.len() + value.len());
        let mut out = Vec::with_capacity(self.text.len() + added.sum::<usize>() + 64);
        self.pieces(|piece| out.extend_from_slice(piece));
        out
    }

    /// The edited text piece by piece; what no edit names are slices of the text that was read.
    pub fn pieces(&self, mut each: impl FnMut(&[u8])) {
        let first = self.members.first();
        let mut end = self.inside;
        each(&self.text[..self.inside]);
        let mut empty = true;
        for member in &self.members {
            if let Some(value) = member.current(self.text) {
                // The first one left follows the brace as the first one did.
                let gap = match first {
                    Some(first) if empty => self.inside..first.start,
                    _ => end..member.start,
                };
                each(&self.text[gap]);
                each(&self.text[member.start..member.value.start]);
                each(value);
                empty = false;
            }
            end = member.value.end;
        }
        for (key, value) in &self.added {
            if !empty {
                each(b",");
            }
            let key = serde_json::Value::from(key.as_str());
            each(key.to_string().as_bytes());
            each(b":");
            each(value);
            empty = false;
        }
        each(&self.text[end..]);
    }
}

impl Member<'_> {
    fn current<'b>(&'b self, text: &'b [u8]) -> Option<&'b [u8]> {
        match &self.now {
            Now::Same => Some(&text[self.value.clone()]),
            Now::Gone => None,
            Now::Other(value) => Some(value),
        }
    }
}

impl fmt::Display for Object<'_> {
    /// The edited text. Bytes that are not UTF-8 become U+FFFD: send [`Object::to_bytes`].
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

/// The object's text without the member, or `None` where there is none.
fn without(text: &[u8], path: &[&str]) -> Result<Option<Vec<u8>>, Error> {
    if !Raw::again(text).is_object() {
        return Ok(None);
    }
    let mut object = Object::read(text)?;
    Ok(object.remove_in(path)?.then(|| object.to_bytes()))
}

fn at(key: &str, error: Error) -> Error {
    match error {
        Error::NotAnObject => Error::MemberNotAnObject {
            key: key.to_owned(),
        },
        other => other,
    }
}

/// What should have stood at an offset, with the place as people count it.
fn broken(text: &[u8], at: usize, expected: &str) -> Error {
    let before = &text[..at];
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    Error::Json {
        line: memchr::memchr_iter(b'\n', before).count() + 1,
        column: at - line_start + 1,
        message: format!("expected {expected}"),
    }
}

#[cfg(test)]
mod tests;
