//! The files of a model's folder -> bytes, JSON, chat templates and special tokens. IO.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::LoadError;

/// Large vocabularies make files of some tens of megabytes.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Special tokens that templates know by name.
const NAMED_TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

pub(super) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
            limit_bytes: MAX_FILE_BYTES,
        });
    }
    Ok(bytes)
}

/// `None` where there is no such file.
fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    match read(path) {
        Err(LoadError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        read => read.map(Some),
    }
}

pub(super) fn read_json(path: &Path) -> Result<Option<Value>, LoadError> {
    let Some(bytes) = read_optional(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| LoadError::Json {
            path: path.to_owned(),
            line: error.line(),
            message: error.to_string(),
        })
}

fn read_text(path: &Path) -> Result<Option<String>, LoadError> {
    let Some(bytes) = read_optional(path)? else {
        return Ok(None);
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| LoadError::Json {
            path: path.to_owned(),
            line: 0,
            message: "not UTF-8".to_owned(),
        })
}

/// Templates by name.
type Sources = BTreeMap<String, String>;

/// The templates and the file that holds the first of them. A file of its own wins over the
/// config, as in transformers.
pub(super) fn find_templates(
    dir: &Path,
    config_path: &Path,
    config: &Value,
) -> Result<Option<(PathBuf, Sources)>, LoadError> {
    let jinja = dir.join("chat_template.jinja");
    if let Some(source) = read_text(&jinja)? {
        let mut sources = additional_templates(dir)?;
        sources.insert("default".to_owned(), source);
        return Ok(Some((jinja, sources)));
    }
    if let Some(sources) = templates_of(&config["chat_template"], config_path)? {
        return Ok(Some((config_path.to_owned(), sources)));
    }
    let json = dir.join("chat_template.json");
    let value = read_json(&json)?.unwrap_or(Value::Null);
    Ok(templates_of(&value["chat_template"], &json)?.map(|sources| (json, sources)))
}

/// Named templates beside the default one: `additional_chat_templates/tool_use.jinja`.
fn additional_templates(dir: &Path) -> Result<Sources, LoadError> {
    let folder = dir.join("additional_chat_templates");
    let mut sources = BTreeMap::new();
    let Ok(entries) = fs::read_dir(&folder) else {
        return Ok(sources);
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let Some(name) = name.filter(|_| path.extension().is_some_and(|it| it == "jinja")) else {
            continue;
        };
        if let Some(source) = read_text(&path)? {
            sources.insert(name.to_owned(), source);
        }
    }
    Ok(sources)
}

/// One template as a string, or a list of named ones.
fn templates_of(value: &Value, path: &Path) -> Result<Option<Sources>, LoadError> {
    let wrong = |message: &str| LoadError::Json {
        path: path.to_owned(),
        line: 0,
        message: message.to_owned(),
    };
    match value {
        Value::Null => Ok(None),
        Value::String(source) => Ok(Some(BTreeMap::from([(
            "default".to_owned(),
            source.clone(),
        )]))),
        Value::Array(named) => named
            .iter()
            .map(|entry| {
                let field = |name: &str| entry[name].as_str().map(str::to_owned);
                field("name").zip(field("template")).ok_or_else(|| {
                    wrong("each entry of chat_template must have a name and a template")
                })
            })
            .collect::<Result<_, _>>()
            .map(Some),
        _ => Err(wrong("chat_template must be a string or a list")),
    }
}

/// Special tokens by the names templates use; a token is a string or an object with `content`.
pub(super) fn named_tokens(config: &Value, map: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| {
        value
            .as_str()
            .or_else(|| value["content"].as_str())
            .map(str::to_owned)
    };
    NAMED_TOKENS
        .iter()
        .filter_map(|name| {
            let token = text(&config[*name]).or_else(|| text(&map[*name]))?;
            Some(((*name).to_owned(), token))
        })
        .collect()
}
