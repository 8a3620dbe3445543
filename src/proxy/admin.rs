//! Request path -> is it one by which an engine is administered rather than asked? PURE.
//!
//! Engines serve these beside their APIs, most without a key: whoever may send a prompt could
//! put the engine to sleep, empty its cache or load weights. The sidecar is the engine's only
//! door, so it keeps them shut unless told otherwise. Sources: vLLM's development, RL, LoRA,
//! elastic and profiler routers, and SGLang's server.
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;
use std::convert::Infallible;
use std::str::FromStr;

use crate::openai::api::percent_decoded;

/// Names that mean administration wherever a path ends with them: a server may have a root
/// path in front.
const NAMES: &[&str] = &[
    // Sleep, cache, LoRA.
    "wake_up",
    "is_sleeping",
    "reset_prefix_cache",
    "reset_mm_cache",
    "reset_encoder_cache",
    "flush_cache",
    "clear_hicache_storage_backend",
    "load_lora_adapter",
    "unload_lora_adapter",
    "load_lora_adapter_from_tensors",
    // Remote procedure calls and what the server was started with.
    "collective_rpc",
    "server_info",
    "get_server_info",
    "get_internal_state",
    "set_internal_state",
    "configure_logging",
    // Requests of other people.
    "is_paused",
    "abort_request",
    "abort_requests",
    "pause_generation",
    "continue_generation",
    // Weights.
    "weight_info",
    "weight_checker",
    "weights_checker",
    "get_weight_version",
    "get_weights_by_name",
    "get_world_size",
    "release_memory_occupation",
    "resume_memory_occupation",
    // Size of the engine.
    "scale_elastic_ep",
    "is_scaling_elastic_ep",
    "rescale",
    // Profilers and recorders.
    "start_profile",
    "stop_profile",
    "start_expert_distribution_record",
    "stop_expert_distribution_record",
    "dump_expert_distribution_record",
    "freeze_gc",
    "slow_down",
];
/// Beginnings of such names: `update_weights_from_disk`, `init_weights_update_group`, ...
const PREFIXES: &[&str] = &[
    "update_weight",
    "init_weight",
    "start_weight_update",
    "start_draft_weight_update",
    "finish_weight_update",
    "destroy_weights",
    "send_weights",
];
/// Words with other uses deeper in an API (`/v1/fine_tuning/jobs/1/pause`): only where the
/// path does not go through `/v1/`.
const WORDS: &[&str] = &["sleep", "pause", "resume"];
/// Everything below these.
const FOLDERS: &[&str] = &["fault_tolerance"];

/// Which administrative paths go on to the engine.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Allowed {
    /// None.
    #[default]
    Nothing,
    /// All of them.
    Everything,
    /// These, in the form of [`normalized`].
    Only(Vec<String>),
}

impl FromStr for Allowed {
    type Err = Infallible;

    /// Reads the value of `--allow-admin-paths`: nothing or `true` for all, `false` for none,
    /// else a list of paths.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.trim() {
            "" | "true" => Self::Everything,
            "false" => Self::Nothing,
            list => Self::Only(
                list.split(',')
                    .map(|path| normalized(path.trim()).into_owned())
                    .collect(),
            ),
        })
    }
}

impl Allowed {
    /// True when a request for this path must not reach the engine.
    pub fn refuses(&self, path: &str) -> bool {
        if *self == Self::Everything {
            return false;
        }
        let path = normalized(path);
        is_administrative(&path)
            && match self {
                Self::Only(allowed) => !allowed.iter().any(|allowed| *allowed == path),
                Self::Nothing | Self::Everything => true,
            }
    }
}

fn is_administrative(path: &str) -> bool {
    let (before, name) = path.rsplit_once('/').unwrap_or(("", path));
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || (WORDS.contains(&name) && !before.split('/').any(|part| part == "v1"))
        || before.split('/').any(|part| FOLDERS.contains(&part))
}

/// A path in the one form it is compared in: percent escapes decoded (also those that decoding
/// brings to light), no empty and no dot segments, no slash at the end, lower case. A server
/// that reads paths more strictly gives the spellings no meaning; one that does not gives them
/// this one.
pub fn normalized(path: &str) -> Cow<'_, str> {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'/' | b'_' | b'-')
    };
    let simple = path.starts_with('/') && !path.ends_with('/') && !path.contains("//");
    if simple && path.bytes().all(plain) {
        return Cow::Borrowed(path);
    }
    let mut decoded = path.to_owned();
    // Each round takes two bytes off, and no server decodes more often than twice.
    for _ in 0..4 {
        let once = String::from_utf8_lossy(&percent_decoded(&decoded)).into_owned();
        if once == decoded {
            break;
        }
        decoded = once;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in decoded.split(['/', '\\']) {
        // What follows a semicolon is a parameter of the segment to some servers.
        match part.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Cow::Owned(format!("/{}", parts.join("/")).to_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn administrative_paths_are_refused_and_others_are_not() {
        for path in [
            "/sleep",
            "/wake_up",
            "/is_sleeping",
            "/reset_prefix_cache",
            "/reset_mm_cache",
            "/reset_encoder_cache",
            "/v1/load_lora_adapter",
            "/v1/unload_lora_adapter",
            "/collective_rpc",
            "/server_info",
            "/pause",
            "/resume",
            "/start_profile",
            "/stop_profile",
            "/update_weights",
            "/update_weights_from_disk",
            "/init_weight_transfer_engine",
            "/init_weights_update_group",
            "/scale_elastic_ep",
            "/is_scaling_elastic_ep",
            "/abort_requests",
            "/get_world_size",
            "/rescale",
            "/fault_tolerance/apply",
            "/fault_tolerance/status",
            "/llm/sleep",
            "/llm/v1/load_lora_adapter",
        ] {
            assert!(Allowed::Nothing.refuses(path), "{path}");
        }
        for path in [
            "/",
            "",
            "/metrics",
            "/health",
            "/version",
            "/v1/models",
            "/v1/chat/completions",
            "/v1/realtime",
            "/v1/files/sleeping",
            "/v1/fine_tuning/jobs/1/pause",
            "/sleepy",
            "/tokenize",
            "*",
        ] {
            assert!(!Allowed::Nothing.refuses(path), "{path}");
        }
    }

    #[test]
    fn what_the_operator_allows_passes() {
        let read = |text: &str| text.parse::<Allowed>().unwrap();
        let only = read("/sleep, /v1/load_lora_adapter");
        assert!(!only.refuses("/sleep") && !only.refuses("/v1//load_lora_adapter/"));
        assert!(only.refuses("/wake_up") && only.refuses("/llm/sleep"));
        assert_eq!(read(""), Allowed::Everything);
        assert_eq!(read("true"), Allowed::Everything);
        assert_eq!(read("false"), Allowed::Nothing);
        assert!(!Allowed::Everything.refuses("/collective_rpc"));
    }

    #[test]
    fn other_spellings_are_the_same_path() {
        for path in [
            "//sleep",
            "/sleep/",
            "/./sleep",
            "/x/../sleep",
            "/v1/%2e%2e/sleep",
            "/%73leep",
            "/%2573leep",
            "/SLEEP",
            "/v1/..%2fsleep",
            "/..//sleep//.",
            "/sleep;x=1",
            "/x/..\\sleep",
            "sleep",
        ] {
            assert_eq!(normalized(path), "/sleep", "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_spelling_is_a_way_around(
            at in 0..NAMES.len(), escaped in prop::collection::vec(0..3u8, 40),
            front in prop::sample::select(vec!["/", "//", "/./", "/a/../", "/v1/", "/%2e/", "/x/%2E%2e/"]),
            back in prop::sample::select(vec!["", "/", "//", "/.", "/a/.."]),
        ) {
            let name: String = NAMES[at].bytes().zip(escaped).map(|(byte, how)| match how {
                0 => char::from(byte).to_string(),
                1 => format!("%{byte:02x}"),
                _ => format!("%25{byte:02X}"),
            }).collect();
            let path = format!("{front}{name}{back}");
            prop_assert!(Allowed::Nothing.refuses(&path), "{}", path);
        }

        #[test]
        fn any_text_becomes_a_path_without_detours(path in "[/%.a-z0-9;\\\\]{0,40}") {
            let normal = normalized(&path);
            prop_assert!(normal.starts_with('/'));
            prop_assert!(normal == "/" || normal.split('/').skip(1).all(|part| {
                !matches!(part, "" | "." | "..")
            }), "{}", normal);
        }
    }
}
