//! A vLLM command line and its image -> the flags that this or a newer vLLM refuses. PURE: what
//! the user wrote is never changed.
#![deny(clippy::disallowed_methods)]

use super::{CommandLine, Program};

/// A release of vLLM: major, minor.
type Release = (u32, u32);

/// The newest release whose parser was read for this table (`vllm/engine/arg_utils.py`,
/// `vllm/config/cache.py`, `vllm/config/scheduler.py`).
const READ: Release = (0, 32);

/// A flag that is gone.
struct Gone {
    flag: &'static str,
    /// The first release without it, where that is known; [`READ`] has it no more.
    since: Release,
    /// What to write instead.
    instead: &'static str,
}

const fn gone(flag: &'static str, instead: &'static str) -> Gone {
    Gone {
        flag,
        since: READ,
        instead,
    }
}

const GONE: &[Gone] = &[
    Gone {
        flag: "--swap-space",
        since: (0, 18),
        instead: "leave it out: it has no effect",
    },
    gone("--num-scheduler-steps", "leave it out"),
    gone("--multi-step-stream-outputs", "leave it out"),
    gone("--use-v2-block-manager", "leave it out"),
    gone("--preemption-mode", "leave it out"),
    gone("--scheduler-delay-factor", "leave it out"),
    gone("--num-lookahead-slots", "leave it out"),
    gone("--disable-async-output-proc", "leave it out"),
    gone("--device", "leave it out: the build decides"),
    gone("--worker-use-ray", "--distributed-executor-backend=ray"),
    gone("--task", "--runner or --convert"),
    gone(
        "--guided-decoding-backend",
        "--structured-outputs-config.backend",
    ),
    gone(
        "--disable-log-requests",
        "leave it out: requests are logged with --enable-log-requests only",
    ),
    gone("--enable-reasoning", "--reasoning-parser alone"),
    gone("--speculative-model", "--speculative-config"),
    gone("--rope-scaling", "--hf-overrides"),
    gone("--rope-theta", "--hf-overrides"),
    gone("--max-seq-len-to-capture", "--compilation-config"),
    gone("--cuda-graph-sizes", "--compilation-config"),
    gone("--enable-prompt-adapter", "leave it out"),
    gone("--enable-lora-bias", "leave it out"),
    gone("--lora-extra-vocab-size", "leave it out"),
    gone("--override-pooler-config", "--pooler-config"),
    gone(
        "--disable-mm-preprocessor-cache",
        "--mm-processor-cache-gb=0",
    ),
];

/// What a vLLM refuses of this command line: the flag, why, and what to write instead. Nothing for
/// other programs, and nothing that the release named by the image's tag still takes.
pub fn refused_flags(line: &CommandLine, image: &str) -> Vec<(&'static str, String)> {
    if !matches!(line.program(), Program::Vllm | Program::Image) {
        return Vec::new();
    }
    if line.program() == Program::Image && !image.contains("vllm") && !image.contains("llm-d") {
        return Vec::new();
    }
    let release = release_of(image);
    let who = |since: Release| match release {
        Some((major, minor)) => format!("vLLM {major}.{minor}"),
        None => format!("vLLM from {}.{} on", since.0, since.1),
    };
    let is_refused = |since: Release| release.is_none_or(|release| release >= since);
    let mut found: Vec<(&'static str, String)> = GONE
        .iter()
        .filter(|row| is_refused(row.since) && line.has(&[row.flag]))
        .map(|row| {
            (
                row.flag,
                format!("{} does not know it: {}", who(row.since), row.instead),
            )
        })
        .collect();
    if is_refused(READ)
        && let Some(algorithm) = line.value(&["--prefix-caching-hash-algo"])
        && !["sha256", "sha256_cbor", "xxhash", "xxhash_cbor"].contains(&algorithm)
    {
        let text = format!(
            "{} has no {algorithm:?}: write sha256, sha256_cbor, xxhash or xxhash_cbor",
            who(READ)
        );
        found.push(("--prefix-caching-hash-algo", text));
    }
    found.extend(contradictions(line));
    found
}

/// Settings that every release refuses together.
fn contradictions(line: &CommandLine) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let batched: Option<u64> = line.number(&["--max-num-batched-tokens"]);
    let length: Option<u64> = line.number(&["--max-model-len"]);
    let sequences: Option<u64> = line.number(&["--max-num-seqs"]);
    if line.has(&["--no-enable-chunked-prefill"])
        && let (Some(batched), Some(length)) = (batched, length)
        && batched < length
    {
        let text = format!(
            "vLLM refuses it with --max-num-batched-tokens={batched} below --max-model-len={length}: \
             allow chunked prefill, or at least {length} batched tokens"
        );
        found.push(("--no-enable-chunked-prefill", text));
    }
    if let (Some(batched), Some(sequences)) = (batched, sequences)
        && batched < sequences
    {
        let text = format!("vLLM refuses {batched}, which is below --max-num-seqs={sequences}");
        found.push(("--max-num-batched-tokens", text));
    }
    found
}

/// The vLLM release that an image's tag names: images of vLLM itself only, others number
/// themselves.
fn release_of(image: &str) -> Option<Release> {
    let (name, tag) = image.rsplit_once(':')?;
    let repository = name.rsplit('/').next()?;
    if !repository.contains("vllm") {
        return None;
    }
    let mut numbers = tag.trim_start_matches('v').split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor: String = numbers
        .next()?
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Some((major, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(image: &str, args: &[&str]) -> Vec<(&'static str, String)> {
        let container = json!({"name": "vllm", "command": ["vllm", "serve", "m"], "args": args});
        let line = CommandLine::of(&serde_json::from_value(container).unwrap());
        refused_flags(&line, image)
    }

    #[test]
    fn what_a_vllm_would_refuse_is_told_by_the_release_that_the_image_names() {
        let flags = |image: &str, args: &[&str]| -> Vec<&str> {
            told(image, args)
                .into_iter()
                .map(|(flag, _)| flag)
                .collect()
        };
        let article = [
            "--prefix-caching-hash-algo=builtin",
            "--no-enable-chunked-prefill",
            "--max-model-len=4096",
            "--max-num-batched-tokens=2048",
        ];
        let both = ["--prefix-caching-hash-algo", "--no-enable-chunked-prefill"];
        assert_eq!(flags("ghcr.io/llm-d/llm-d:v0.2.0", &article), both);
        assert_eq!(flags("vllm/vllm-openai:v0.32.0", &article), both);
        // The contradiction is as old as the flags; `builtin` was right then.
        assert_eq!(flags("vllm/vllm-openai:v0.8.5", &article), both[1..]);
        assert_eq!(
            flags("vllm/vllm-openai:v0.18.1", &["--swap_space", "4"]),
            ["--swap-space"]
        );
        assert!(flags("vllm/vllm-openai:v0.10.2", &["--swap-space=4"]).is_empty());
        assert!(
            flags(
                "vllm/vllm-openai:latest",
                &["--max-model-len=1", "--block-size=16"]
            )
            .is_empty()
        );
    }

    #[test]
    fn a_telling_says_who_refuses_and_what_to_write() {
        let told = told("vllm/vllm-openai:v0.32.0", &["--task", "embed"]);
        assert_eq!(
            told[0].1,
            "vLLM 0.32 does not know it: --runner or --convert"
        );
    }

    #[test]
    fn other_engines_are_left_alone() {
        let container = json!({"name": "e", "command": ["python", "-m", "sglang.launch_server", "--device", "cuda"]});
        let line = CommandLine::of(&serde_json::from_value(container).unwrap());
        assert!(refused_flags(&line, "lmsysorg/sglang:v0.5").is_empty());
    }
}
