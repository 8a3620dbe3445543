//! A container's image and command -> the program that stands for it here, and what that
//! program must be told to live beside others. PURE but for looking whether files exist.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::tools::Tools;

/// What to run for a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

/// An image nobody has.
#[derive(Debug, thiserror::Error)]
#[error("no program stands for image {image:?} with command {command:?}")]
pub struct Unknown {
    image: String,
    command: Vec<String>,
}

/// Finds the program. `programs` is the folder of this project's own executables.
///
/// # Errors
/// When the image stands for nothing here, as a registry that lacks it.
pub fn program(
    tools: &Tools,
    programs: &Path,
    image: &str,
    command: &[String],
    args: &[String],
    bind: Option<IpAddr>,
) -> Result<Program, Unknown> {
    let repository = image.split('@').next().unwrap_or(image);
    let name = repository.rsplit('/').next().unwrap_or_default();
    let name = name.split(':').next().unwrap_or_default();
    let first = command
        .first()
        .map(|path| path.rsplit('/').next().unwrap_or_default());
    let ours = |program: &str| programs.join(program);
    let unknown = || Unknown {
        image: image.to_owned(),
        command: command.to_vec(),
    };
    let all = || command.iter().chain(args).cloned().collect::<Vec<_>>();
    let rest = || {
        command
            .iter()
            .skip(1)
            .chain(args)
            .cloned()
            .collect::<Vec<_>>()
    };
    Ok(match name {
        "llm-d-operator" => Program {
            path: ours(match first {
                Some("epp") => "epp",
                Some("routing-proxy") => "routing-proxy",
                Some("inference-sim") => "inference-sim",
                Some("llm-d-operator" | "manager") | None => "llm-d-operator",
                Some(_) => return Err(unknown()),
            }),
            args: rest(),
        },
        "llm-d-routing-sidecar" | "routing-proxy" => Program {
            path: ours("routing-proxy"),
            args: if first.is_some() { rest() } else { all() },
        },
        "llm-d"
        | "llm-d-dev"
        | "llm-d-cuda"
        | "vllm"
        | "vllm-openai"
        | "vllm-openai-cpu"
        | "llm-d-inference-sim" => Program {
            path: ours("inference-sim"),
            args: all(),
        },
        "valkey" | "redis" => {
            let mut args = rest();
            if let Some(ip) = bind {
                args.extend(["--bind".to_owned(), ip.to_string()]);
            }
            Program {
                path: tools.redis.clone(),
                args,
            }
        }
        _ => return Err(unknown()),
    })
}
