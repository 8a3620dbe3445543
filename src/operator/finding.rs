//! A thing that somebody should know, as place, headline and detail -> one line of text. PURE.
//!
//! Nobody takes the text apart again: who needs the headline or the place reads the field.
#![deny(clippy::disallowed_methods)]

use std::fmt;

use super::base::Place;

/// A thing that somebody should know; nothing is refused because of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Where it was written; `None` for what is nowhere in particular.
    pub place: Option<Place>,
    /// What is the matter, the same as long as it is the same matter.
    pub headline: String,
    /// What follows from it or what to write instead; may be empty.
    pub detail: String,
}

impl Finding {
    /// Something that is nowhere in particular.
    pub fn new(headline: impl Into<String>) -> Self {
        Self {
            place: None,
            headline: headline.into(),
            detail: String::new(),
        }
    }

    /// Something that was written there.
    pub fn at(place: Place, headline: impl Into<String>) -> Self {
        Self {
            place: Some(place),
            ..Self::new(headline)
        }
    }

    /// The same, and what follows from it.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}{}: ", place.line_note())?;
        }
        f.write_str(&self.headline)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_place_headline_detail() {
        let place = Place::Base {
            object: "ConfigMap ns/b".to_owned(),
            key: "decodeDeployment",
            line: Some(3),
        };
        let finding = Finding::at(place, "--swap-space is gone").detail("leave it out");
        assert_eq!(
            finding.to_string(),
            "ConfigMap ns/b: decodeDeployment (line 3): --swap-space is gone: leave it out"
        );
        assert_eq!(Finding::new("a").to_string(), "a");
    }
}
