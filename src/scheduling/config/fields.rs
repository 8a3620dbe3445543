//! A tree of values -> the settings a reader asks for, with every mistake noted beside its path
//! and line. PURE.

use super::node::{Key, Node, Value};
use super::{SettingError, SettingOrigin, SettingWarning, nearest};

/// Mistakes and what is to be said, so far.
#[derive(Default)]
pub(super) struct Report {
    pub(super) errors: Vec<SettingError>,
    pub(super) warnings: Vec<SettingWarning>,
}

/// A value and its path.
#[derive(Clone, Debug)]
pub(super) struct Item<'a> {
    pub(super) path: String,
    node: &'a Node,
}

/// A mapping that is read key by key.
pub(super) struct Fields<'a> {
    path: String,
    line: u64,
    left: Vec<&'a (Key, Node)>,
    asked: Vec<&'static str>,
}

impl Report {
    pub(super) fn error(&mut self, at: SettingOrigin, message: impl Into<String>) {
        self.errors.push(SettingError {
            at,
            message: message.into(),
            upstream_only: false,
        });
    }

    /// As [`Report::error`], of something that upstream has and this EPP does not.
    pub(super) fn absent(&mut self, at: SettingOrigin, message: impl Into<String>) {
        self.error(at, message);
        if let Some(error) = self.errors.last_mut() {
            error.upstream_only = true;
        }
    }

    pub(super) fn warn(&mut self, at: SettingOrigin, message: impl Into<String>) {
        self.warnings.push(SettingWarning {
            at,
            message: message.into(),
        });
    }
}

fn origin(path: &str, line: u64) -> SettingOrigin {
    SettingOrigin::Document {
        path: path.to_owned(),
        line: Some(line),
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

impl<'a> Item<'a> {
    /// The whole document.
    pub(super) fn root(node: &'a Node) -> Self {
        Self {
            path: String::new(),
            node,
        }
    }

    pub(super) fn at(&self) -> SettingOrigin {
        origin(&self.path, self.node.line)
    }

    fn wrong(&self, report: &mut Report, wanted: &str) {
        let message = match &self.node.value {
            Value::Text(text) => format!("{text:?} is text; {wanted} is wanted"),
            Value::Whole(number) => format!("{number} is a number; {wanted} is wanted"),
            Value::Number(number) => format!("{number} is a number; {wanted} is wanted"),
            other => format!("is {}; {wanted} is wanted", other.kind()),
        };
        report.error(self.at(), message);
    }

    pub(super) fn text(&self, report: &mut Report) -> Option<&'a str> {
        let Value::Text(text) = &self.node.value else {
            self.wrong(report, "text");
            return None;
        };
        Some(text)
    }

    pub(super) fn flag(&self, report: &mut Report) -> Option<bool> {
        let Value::Flag(flag) = self.node.value else {
            self.wrong(report, "true or false");
            return None;
        };
        Some(flag)
    }

    /// A whole number of at least `least`.
    pub(super) fn whole(&self, report: &mut Report, least: u64) -> Option<u64> {
        let whole = match self.node.value {
            Value::Whole(number) => number,
            // JSON writers may give whole numbers a fraction of nothing.
            Value::Number(number) if number.fract() == 0.0 => number as i128,
            _ => {
                self.wrong(report, "a whole number");
                return None;
            }
        };
        match u64::try_from(whole) {
            Ok(number) if number >= least => Some(number),
            _ => {
                let message = format!(
                    "{whole} is out of range; a whole number of at least {least} is wanted"
                );
                report.error(self.at(), message);
                None
            }
        }
    }

    /// A finite number in the range.
    pub(super) fn number(&self, report: &mut Report, least: f64, most: f64) -> Option<f64> {
        let number = match self.node.value {
            Value::Whole(number) => number as f64,
            Value::Number(number) => number,
            _ => {
                self.wrong(report, "a number");
                return None;
            }
        };
        if (least..=most).contains(&number) {
            return Some(number);
        }
        let message =
            format!("{number} is out of range; a number from {least} to {most} is wanted");
        report.error(self.at(), message);
        None
    }

    pub(super) fn list(&self, report: &mut Report) -> Vec<Item<'a>> {
        let Value::List(items) = &self.node.value else {
            self.wrong(report, "a list");
            return Vec::new();
        };
        (0..)
            .zip(items)
            .map(|(index, node)| Item {
                path: format!("{}[{index}]", self.path),
                node,
            })
            .collect()
    }

    pub(super) fn fields(&self, report: &mut Report) -> Option<Fields<'a>> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong(report, "a mapping");
            return None;
        };
        Some(Fields {
            path: self.path.clone(),
            line: self.node.line,
            left: entries.iter().collect(),
            asked: Vec::new(),
        })
    }

    /// Names and texts of a mapping of any names, such as labels.
    pub(super) fn pairs(&self, report: &mut Report) -> Vec<(&'a str, &'a str)> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong(report, "a mapping");
            return Vec::new();
        };
        entries
            .iter()
            .filter_map(|(key, node)| {
                let item = Item {
                    path: below(&self.path, &key.name),
                    node,
                };
                Some((key.name.as_str(), item.text(report)?))
            })
            .collect()
    }
}

impl<'a> Fields<'a> {
    /// A mapping in which nothing was written, at this place.
    pub(super) fn none(path: String, line: u64) -> Self {
        Self {
            path,
            line,
            left: Vec::new(),
            asked: Vec::new(),
        }
    }

    pub(super) fn at(&self) -> SettingOrigin {
        origin(&self.path, self.line)
    }

    /// The value under a name; one that is null is as if it were not there.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Item<'a>> {
        self.asked.push(name);
        let at = self.left.iter().position(|(key, _)| key.name == name)?;
        let (_, node) = self.left.remove(at);
        let item = Item {
            path: below(&self.path, name),
            node,
        };
        (!matches!(node.value, Value::Null)).then_some(item)
    }

    /// Text under a name; blank text is as if it were not there.
    pub(super) fn text(
        &mut self,
        name: &'static str,
        report: &mut Report,
    ) -> Option<(&'a str, Item<'a>)> {
        let item = self.take(name)?;
        let text = item.text(report)?.trim();
        (!text.is_empty()).then_some((text, item))
    }

    /// The mapping under a name; empty where there is none.
    pub(super) fn fields(&mut self, name: &'static str, report: &mut Report) -> Fields<'a> {
        let none = Fields::none(below(&self.path, name), self.line);
        let item = self.take(name);
        item.and_then(|item| item.fields(report)).unwrap_or(none)
    }

    /// The list under a name; empty where there is none.
    pub(super) fn list(&mut self, name: &'static str, report: &mut Report) -> Vec<Item<'a>> {
        let item = self.take(name);
        item.map_or_else(Vec::new, |item| item.list(report))
    }

    /// A name that does nothing here: said, when it is there.
    pub(super) fn idle(&mut self, name: &'static str, why: &str, report: &mut Report) {
        if let Some(item) = self.take(name) {
            report.warn(item.at(), format!("does nothing here: {why}"));
        }
    }

    /// A name for what upstream has and this EPP does not: an error, when it is there.
    pub(super) fn refuse(&mut self, name: &'static str, why: &str, report: &mut Report) {
        if let Some(item) = self.take(name) {
            report.absent(item.at(), format!("does not exist here: {why}"));
        }
    }

    /// Leaves the rest unread.
    pub(super) fn ignore_rest(&mut self) {
        self.left.clear();
    }

    /// Every name that nobody asked for is an error.
    pub(super) fn finish(self, report: &mut Report) {
        for (key, _) in &self.left {
            let path = below(&self.path, &key.name);
            let mut message = "is not a field here".to_owned();
            if let Some(name) = nearest(&key.name, self.asked.iter().copied()) {
                message.push_str(&format!("; did you mean {name}?"));
            } else if self.asked.is_empty() {
                message.push_str("; there are none");
            } else {
                message.push_str(&format!("; there are {}", self.asked.join(", ")));
            }
            report.error(origin(&path, key.line), message);
        }
    }
}
