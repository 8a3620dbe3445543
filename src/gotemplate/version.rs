//! Versions and constraints on them, as Masterminds/semver 3 reads them. PURE.

use std::cmp::Ordering;

/// A version that may be incomplete: `v1.2` is 1.2.0.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Version {
    numbers: [u64; 3],
    pre: String,
    metadata: String,
    original: String,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre)?;
        }
        if !self.metadata.is_empty() {
            write!(f, "+{}", self.metadata)?;
        }
        Ok(())
    }
}

impl Version {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no version; write one such as 1.2.3 or v1.2.3-rc.1");
        let (numbers, pre, metadata) = parts(text).ok_or_else(wrong)?;
        let mut version = Self {
            numbers: [0; 3],
            pre: pre.to_owned(),
            metadata: metadata.to_owned(),
            original: text.to_owned(),
        };
        for (slot, part) in version.numbers.iter_mut().zip(numbers) {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(wrong());
            }
            *slot = part.parse().map_err(|_| wrong())?;
        }
        let zero_first = |part: &str| {
            part.len() > 1 && part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit())
        };
        if pre.split('.').any(zero_first) {
            return Err(wrong());
        }
        Ok(version)
    }

    pub(super) fn original(&self) -> &str {
        &self.original
    }

    pub(super) fn numbers(&self) -> [u64; 3] {
        self.numbers
    }

    pub(super) fn prerelease(&self) -> &str {
        &self.pre
    }

    pub(super) fn metadata(&self) -> &str {
        &self.metadata
    }

    pub(super) fn compare(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => compare_pre(&self.pre, &other.pre),
            }
        })
    }
}

/// Numbers, pre-release and metadata; `None` for what cannot be a version or a constraint's.
fn parts(text: &str) -> Option<(Vec<&str>, &str, &str)> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let numbers: Vec<&str> = text[..end].split('.').collect();
    let rest = &text[end..];
    let (pre, metadata) = match rest.split_once('+') {
        Some((pre, metadata)) => (pre, Some(metadata)),
        None => (rest, None),
    };
    let words = |words: &str| {
        words.split('.').all(|word| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    let pre = match pre.strip_prefix('-') {
        Some(pre) => Some(pre).filter(|pre| words(pre))?,
        None => "",
    };
    let metadata = match metadata {
        Some(metadata) => Some(metadata).filter(|metadata| words(metadata))?,
        None => "",
    };
    (numbers.len() <= 3).then_some((numbers, pre, metadata))
}

fn compare_pre(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                // Numbers come before words.
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// `>=1.2, <2 || ^3`: any of the groups, and in it all.
pub(super) fn satisfies(constraint: &str, version: &Version) -> Result<bool, String> {
    let groups: Vec<Vec<Constraint>> = constraint
        .split("||")
        .map(|group| read_group(group).ok_or_else(|| format!("improper constraint: {constraint}")))
        .collect::<Result<_, _>>()?;
    Ok(groups
        .iter()
        .any(|group| group.iter().all(|one| one.allows(version))))
}

struct Constraint {
    operator: &'static str,
    of: Version,
    /// How many of the numbers were given.
    given: usize,
}

const OPERATORS: [&str; 12] = [
    "!=", ">=", "=>", "<=", "=<", "~>", "=", ">", "<", "~", "^", "",
];

fn read_group(group: &str) -> Option<Vec<Constraint>> {
    let mut words = Vec::new();
    let mut rest = group.trim_start();
    while !rest.is_empty() {
        let operator = OPERATORS.iter().find(|o| rest.starts_with(**o)).copied()?;
        rest = rest[operator.len()..].trim_start();
        let end = rest
            .find([' ', '\t', '\n', ',', '<', '>', '=', '!', '~', '^'])
            .unwrap_or(rest.len());
        words.push((operator, &rest[..end]));
        let after = rest[end..].trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => Some(next.trim_start()).filter(|next| !next.is_empty())?,
            None => after,
        };
    }
    let mut constraints = Vec::new();
    let mut index = 0;
    while index < words.len() {
        let (operator, word) = words[index];
        // `1.2 - 3.4` is a range.
        if let [("", "-"), ("", last)] = words.get(index + 1..index + 3).unwrap_or_default()
            && operator.is_empty()
        {
            constraints.push(read_one(">=", word)?);
            constraints.push(read_one("<=", last)?);
            index += 3;
            continue;
        }
        constraints.push(read_one(operator, word)?);
        index += 1;
    }
    (!constraints.is_empty()).then_some(constraints)
}

fn read_one(operator: &'static str, word: &str) -> Option<Constraint> {
    let (numbers, pre, _) = parts(word)?;
    let any = |part: &&str| matches!(*part, "x" | "X" | "*");
    let valid = |part: &&str| any(part) || part.bytes().all(|b| b.is_ascii_digit());
    if numbers.iter().any(|part| part.is_empty() || !valid(part)) {
        return None;
    }
    let given = numbers.iter().position(any).unwrap_or(numbers.len());
    let mut text = numbers[..given].to_vec();
    text.resize(3, "0");
    let mut text = text.join(".");
    if !pre.is_empty() {
        text = format!("{text}-{pre}");
    }
    Some(Constraint {
        operator,
        of: Version::parse(&text).ok()?,
        given,
    })
}

impl Constraint {
    fn allows(&self, version: &Version) -> bool {
        let (dirty, of) = (self.given < 3, &self.of);
        let pre_refused = !version.pre.is_empty() && of.pre.is_empty();
        if pre_refused && (self.operator != "!=" || dirty) {
            return false;
        }
        let order = version.compare(of);
        let ([major, minor, _], [of_major, of_minor, of_patch]) = (version.numbers, of.numbers);
        match self.operator {
            "=" | "" if !dirty => order == Ordering::Equal,
            "=" | "" | "~" | "~>" => self.tilde(version, order),
            "!=" if !dirty => order != Ordering::Equal,
            "!=" => self.not_equal(version),
            ">" => match self.given {
                3 => order == Ordering::Greater,
                2 => (major, minor) > (of_major, of_minor),
                _ => major > of_major,
            },
            "<" => order == Ordering::Less,
            ">=" | "=>" => order != Ordering::Less,
            "<=" | "=<" => match self.given {
                3 => order != Ordering::Greater,
                1 => major <= of_major,
                _ => major < of_major || (major == of_major && minor <= of_minor),
            },
            _ if order == Ordering::Less => false,
            _ if of_major > 0 || self.given == 1 => major == of_major,
            _ if major > 0 => false,
            _ if of_minor > 0 || self.given == 2 => minor == of_minor,
            _ => minor == 0 && version.numbers[2] == of_patch,
        }
    }

    fn tilde(&self, version: &Version, order: Ordering) -> bool {
        let whole = self.given == 0 || self.given == 3;
        if order == Ordering::Less {
            return false;
        }
        if self.of.numbers == [0; 3] && whole {
            return true;
        }
        version.numbers[0] == self.of.numbers[0]
            && (version.numbers[1] == self.of.numbers[1] || self.given == 1)
    }

    fn not_equal(&self, version: &Version) -> bool {
        let (have, of) = (version.numbers, self.of.numbers);
        if have[0] != of[0] {
            return true;
        }
        match self.given {
            1 => false,
            2 if have[1] == of[1] => {
                (!version.pre.is_empty() || !self.of.pre.is_empty())
                    && compare_pre(&version.pre, &self.of.pre) != Ordering::Equal
            }
            _ => have[1] != of[1] || have[2] != of[2],
        }
    }
}
