//! sprig's paths, URLs and durations. PURE.

use std::collections::BTreeMap;

use super::super::{Value, format};
use super::{Functions, Outcome, fields, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("base", "s", |args| Ok(base(string(&args[0])).into()));
    functions.add("clean", "s", |args| Ok(clean(string(&args[0])).into()));
    functions.add("dir", "s", |args| {
        let path = string(&args[0]);
        Ok(clean(&path[..path.rfind('/').map_or(0, |at| at + 1)]).into())
    });
    functions.alias("osBase", "base");
    functions.alias("osClean", "clean");
    functions.alias("osDir", "dir");
    functions.add("ext", "s", |args| {
        let path = string(&args[0]);
        let file = &path[path.rfind('/').map_or(0, |at| at + 1)..];
        Ok(file.rfind('.').map_or("", |at| &file[at..]).into())
    });
    functions.add("isAbs", "s", |args| {
        Ok(Value::Bool(string(&args[0]).starts_with('/')))
    });
    functions.alias("osExt", "ext");
    functions.alias("osIsAbs", "isAbs");
    functions.add("urlParse", "s", |args| parse(string(&args[0])));
    functions.add("urlJoin", "m", |args| join(&fields(&args[0])));
    functions.add("duration", "a", |args| {
        let seconds = match &args[0] {
            Value::String(text) => text.parse().unwrap_or(0),
            Value::Int64(number) => *number,
            _ => 0,
        };
        Ok(duration(seconds).into())
    });
    functions.add("durationRound", "a", |args| {
        let nanoseconds = match &args[0] {
            Value::String(text) => nanoseconds(text).unwrap_or(0),
            Value::Int64(number) => *number,
            _ => 0,
        };
        Ok(rounded(nanoseconds.unsigned_abs()).into())
    });
}

fn base(path: &str) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    let path = path.trim_end_matches('/');
    match path.rsplit('/').next().unwrap_or_default() {
        "" => "/".to_owned(),
        last => last.to_owned(),
    }
}

/// The shortest path that means the same.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

fn duration(seconds: i64) -> String {
    let size = seconds.unsigned_abs();
    let (hours, minutes, seconds_left) = (size / 3600, size / 60 % 60, size % 60);
    let sign = if seconds < 0 { "-" } else { "" };
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds_left}s"),
        (0, _) => format!("{sign}{minutes}m{seconds_left}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds_left}s"),
    }
}

/// Go's `time.ParseDuration`.
fn nanoseconds(text: &str) -> Option<i64> {
    let mut rest = text.trim_start_matches(['-', '+']);
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        sum += number * unit;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(sum as i64)
}

/// The largest unit only.
fn rounded(nanoseconds: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    for (unit, name) in [
        (SECOND * 3600 * 24 * 365, "y"),
        (SECOND * 3600 * 24 * 30, "mo"),
        (SECOND * 3600 * 24, "d"),
        (SECOND * 3600, "h"),
        (SECOND * 60, "m"),
        (SECOND, "s"),
    ] {
        if nanoseconds > unit {
            return format!("{}{name}", nanoseconds / unit);
        }
    }
    "0s".to_owned()
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let hex: Vec<u8> = bytes.by_ref().take(2).collect();
        let hex = std::str::from_utf8(&hex).ok().filter(|hex| hex.len() == 2);
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(byte.ok_or_else(|| format!("invalid URL escape in {text:?}"))?);
    }
    String::from_utf8(out).map_err(|_| format!("{text:?} is no text when unescaped"))
}

fn escape(text: &str, keep: &[u8]) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || keep.contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `user` or `user:password`, escaped as Go writes it.
fn userinfo(text: &str) -> Result<String, String> {
    let parts: Result<Vec<String>, String> = text
        .splitn(2, ':')
        .map(|part| Ok(escape(&unescape(part)?, b"$&+,;=")))
        .collect();
    Ok(parts?.join(":"))
}

fn parse(text: &str) -> Outcome {
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err("unable to parse url: invalid control character".to_owned());
    }
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (scheme, rest) =
        match rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))) {
            Some(0) if rest.starts_with(':') => {
                return Err("unable to parse url: missing protocol scheme".to_owned());
            }
            Some(at) if rest[at..].starts_with(':') && rest.as_bytes()[0].is_ascii_alphabetic() => {
                (rest[..at].to_lowercase(), &rest[at + 1..])
            }
            _ => (String::new(), rest),
        };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut parts: BTreeMap<&str, String> = BTreeMap::new();
    let (mut host, mut user, mut path) = (String::new(), String::new(), rest);
    if !rest.starts_with('/') && !scheme.is_empty() {
        parts.insert("opaque", rest.to_owned());
        path = "";
    } else if !rest.starts_with('/') && rest.split('/').next().is_some_and(|s| s.contains(':')) {
        return Err("unable to parse url: first path segment in URL cannot contain colon".into());
    } else if let Some(after) = rest.strip_prefix("//")
        && (!scheme.is_empty() || !rest.starts_with("///"))
    {
        let end = after.find('/').unwrap_or(after.len());
        path = &after[end..];
        let authority = &after[..end];
        let (info, name) = authority
            .rsplit_once('@')
            .map_or((None, authority), |(a, b)| (Some(a), b));
        user = info.map(userinfo).transpose()?.unwrap_or_default();
        host = unescape(name)?;
        let port = host.rsplit_once(':').filter(|_| !host.ends_with(']'));
        if port.is_some_and(|(_, port)| !port.bytes().all(|b| b.is_ascii_digit())) {
            return Err(format!(
                "unable to parse url: invalid port after host in {host:?}"
            ));
        }
        if name.contains([' ', '<', '>', '"']) {
            return Err(format!(
                "unable to parse url: invalid character in host name {host:?}"
            ));
        }
    }
    let hostname = match host.rsplit_once(':') {
        Some((name, _)) if !host.ends_with(']') => name,
        _ => host.as_str(),
    };
    parts.insert("hostname", hostname.trim_matches(['[', ']']).to_owned());
    parts.insert("host", host);
    parts.insert("scheme", scheme);
    parts.insert("path", unescape(path)?);
    parts.insert("query", query.to_owned());
    parts.insert("fragment", unescape(fragment)?);
    parts.insert("userinfo", user);
    parts.entry("opaque").or_default();
    let parts = parts.into_iter();
    Ok(Value::map(
        parts
            .map(|(key, part)| (key.to_owned(), part.into()))
            .collect(),
    ))
}

fn join(parts: &BTreeMap<String, Value>) -> Outcome {
    let part = |key: &str| match parts.get(key) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(format!(
            "unable to parse {key} key, must be of type string, but {} found",
            format::plain(&other.kind().into())
        )),
    };
    let (scheme, host, path) = (part("scheme")?, part("host")?, part("path")?);
    let user = userinfo(part("userinfo")?)?;
    let mut out = String::new();
    if !scheme.is_empty() {
        out.push_str(&format!("{scheme}:"));
    }
    let opaque = part("opaque")?;
    if opaque.is_empty() {
        let named = !host.is_empty() || !user.is_empty();
        if named || (!scheme.is_empty() && !path.is_empty()) {
            out.push_str("//");
        }
        if !user.is_empty() {
            out.push_str(&format!("{user}@"));
        }
        out.push_str(&escape(host, b"!$&'()*+,;=:[]<>\""));
        let path = escape(path, b"$&+,/:;=@");
        if !path.is_empty() && !path.starts_with('/') && !host.is_empty() {
            out.push('/');
        }
        if out.is_empty() && path.split('/').next().is_some_and(|s| s.contains(':')) {
            out.push_str("./");
        }
        out.push_str(&path);
    } else {
        out.push_str(opaque);
    }
    let (query, fragment) = (part("query")?, part("fragment")?);
    if !query.is_empty() {
        out.push_str(&format!("?{query}"));
    }
    if !fragment.is_empty() {
        out.push_str(&format!("#{}", escape(fragment, b"$&+,/:;=?@!()*'")));
    }
    Ok(out.into())
}
