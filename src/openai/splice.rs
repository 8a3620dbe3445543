//! The text of a JSON object + edits of single members -> the same text with only those
//! members changed. PURE.
//!
//! Nothing is built from the text and written again: a map would sort keys, lose integers
//! above 2^53 and fold duplicates. Every byte that no edit names stays where it is.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Most members of one object: a short body of many tiny members would else take many times
/// its size in memory.
pub const MAX_MEMBERS: usize = 4096;

/// Why a text cannot be edited.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The text is not UTF-8.
    #[error("invalid JSON: not UTF-8 from byte {at} on")]
    NotUtf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// The text is not JSON.
    #[error("invalid JSON at line {line} column {column}: {message}")]
    Json {
        /// Line in the text, from 1.
        line: usize,
        /// Column in the line, from 1.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// The text is JSON but no object.
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
    text: &'a str,
    /// Offset behind the opening brace.
    inside: usize,
    members: Vec<Member<'a>>,
    added: Vec<(String, String)>,
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
    Other(String),
}

impl<'a> Object<'a> {
    /// Finds the members of the object.
    ///
    /// # Errors
    /// When the bytes are not one JSON object, or one with too many members.
    pub fn read(body: &'a [u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(body).map_err(|error| Error::NotUtf8 {
            at: error.valid_up_to(),
        })?;
        Self::parse(text)
    }

    fn parse(text: &'a str) -> Result<Self, Error> {
        let Found(found) = serde_json::from_str(text).map_err(|error| explain(text, &error))?;
        let inside = text.find('{').expect("the parser saw an object") + 1;
        let mut end = inside;
        let mut members = Vec::with_capacity(found.len());
        for (key, value) in found {
            // Between two members stand only blanks and a comma.
            let start = end + text[end..].find('"').expect("the parser saw a key");
            let begin = value.get().as_ptr().addr() - text.as_ptr().addr();
            end = begin + value.get().len();
            members.push(Member {
                key,
                start,
                value: begin..end,
                now: Now::Same,
            });
        }
        Ok(Self {
            text,
            inside,
            members,
            added: Vec::new(),
        })
    }

    /// The raw JSON of a member, edits included.
    pub fn get(&self, key: &str) -> Option<&str> {
        let added = self.added.iter().find(|(name, _)| name == key);
        added.map(|(_, value)| value.as_str()).or_else(|| {
            let mut here = self.members.iter().rev();
            here.find_map(|member| member.current(self.text).filter(|_| member.key == key))
        })
    }

    /// The raw JSON of a member inside nested objects; `None` where any step is missing or is
    /// no object.
    pub fn get_in(&self, path: &[&str]) -> Option<String> {
        let (key, rest) = path.split_first()?;
        let value = self.get(key)?;
        if rest.is_empty() {
            return Some(value.to_owned());
        }
        Object::parse(value).ok()?.get_in(rest)
    }

    /// Gives a member this value, which must be valid JSON: in the place of the first member
    /// of that key (others of the same key go), or behind the last member.
    pub fn set(&mut self, key: &str, value: &str) {
        debug_assert!(serde_json::from_str::<&RawValue>(value).is_ok());
        let mut placed = false;
        for member in &mut self.members {
            if member.key != key || matches!(member.now, Now::Gone) {
                continue;
            }
            member.now = if placed {
                Now::Gone
            } else {
                Now::Other(value.to_owned())
            };
            placed = true;
        }
        if placed {
            return;
        }
        match self.added.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => value.clone_into(old),
            None => self.added.push((key.to_owned(), value.to_owned())),
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
        let inner = match self.get(key) {
            None | Some("null") => "{}",
            Some(text) => text,
        };
        let mut inner = Object::parse(inner).map_err(|error| at(key, error))?;
        inner.set_in(rest, value)?;
        let inner = inner.to_string();
        self.set(key, &inner);
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
}

impl<'a> Member<'a> {
    fn current<'b>(&'b self, text: &'b str) -> Option<&'b str>
    where
        'a: 'b,
    {
        match &self.now {
            Now::Same => Some(&text[self.value.clone()]),
            Now::Gone => None,
            Now::Other(value) => Some(value),
        }
    }
}

impl fmt::Display for Object<'_> {
    /// The edited text.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.members.first();
        let mut end = self.inside;
        out.write_str(&self.text[..self.inside])?;
        let mut empty = true;
        for member in &self.members {
            if let Some(value) = member.current(self.text) {
                // The first one left follows the brace as the first one did.
                let gap = match first {
                    Some(first) if empty => self.inside..first.start,
                    _ => end..member.start,
                };
                out.write_str(&self.text[gap])?;
                out.write_str(&self.text[member.start..member.value.start])?;
                out.write_str(value)?;
                empty = false;
            }
            end = member.value.end;
        }
        for (key, value) in &self.added {
            if !empty {
                out.write_str(",")?;
            }
            let key = serde_json::to_string(key).map_err(|_| fmt::Error)?;
            write!(out, "{key}:{value}")?;
            empty = false;
        }
        out.write_str(&self.text[end..])
    }
}

/// The object's text without the member, or `None` where there is none.
fn without(text: &str, path: &[&str]) -> Result<Option<String>, Error> {
    match Object::parse(text) {
        Ok(mut object) => Ok(object.remove_in(path)?.then(|| object.to_string())),
        Err(Error::NotAnObject) => Ok(None),
        Err(error) => Err(error),
    }
}

fn at(key: &str, error: Error) -> Error {
    match error {
        Error::NotAnObject => Error::MemberNotAnObject {
            key: key.to_owned(),
        },
        other => other,
    }
}

fn explain(text: &str, error: &serde_json::Error) -> Error {
    if error.is_data() {
        return if text.trim_start().starts_with('{') {
            Error::TooManyMembers
        } else {
            Error::NotAnObject
        };
    }
    // The position is said once, in front.
    let said = error.to_string();
    Error::Json {
        line: error.line(),
        column: error.column(),
        message: said.split(" at line ").next().unwrap_or(&said).to_owned(),
    }
}

/// Members in the order of the text, borrowed from it.
struct Found<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Found<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Found<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    if found.len() == MAX_MEMBERS {
                        return Err(A::Error::custom("too many members"));
                    }
                    found.push((key, map.next_value()?));
                }
                Ok(Found(found))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests;
