//! Arguments and environment -> how requests are scheduled; also `epp config`, which prints it.
//! IO: reads the environment and one file, logs and prints.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::cli::{Args, ConfigOutput};
use crate::scheduling::config::{SchedulingConfig, SettingError, SettingWarning};

/// The largest file read, in bytes: an EndpointPickerConfig has a few KiB.
const MAX_BYTES: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The file cannot be read.
    #[error("--config-file {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any configuration.
    #[error("--config-file {}: is larger than {MAX_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    /// There are two configurations.
    #[error("--config-file and --config-text are both given; one of them is wanted")]
    Both,
    /// What is written cannot be understood.
    #[error("{origin}: {}", lines(errors))]
    Settings {
        /// The flag or the environment.
        origin: String,
        /// All of it.
        errors: Vec<SettingError>,
    },
}

fn lines(errors: &[SettingError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// How requests are scheduled, with everything that does nothing said aloud in the log.
///
/// # Errors
/// When it cannot be read or understood.
pub(super) fn start(args: &Args) -> Result<SchedulingConfig, Error> {
    let (config, warnings) = read(args)?;
    for warning in warnings {
        tracing::warn!(setting = %warning.at, "{}", warning.message);
    }
    tracing::info!(config = %config.to_document(), "scheduling");
    Ok(config)
}

/// Prints the configuration, with warnings and every error on stderr.
pub(super) fn print(args: &Args, ignored: &[String], output: ConfigOutput) -> ExitCode {
    for flag in ignored {
        eprintln!("warning: --{flag} has no effect here");
    }
    let (config, warnings) = match read(args) {
        Ok(read) => read,
        Err(Error::Settings { origin, errors }) => {
            for error in errors {
                eprintln!("error: {origin}: {error}");
            }
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            return ExitCode::FAILURE;
        }
    };
    for warning in warnings {
        eprintln!("warning: {} {}", warning.at, warning.message);
    }
    let document = config.to_document();
    match output {
        ConfigOutput::Json => println!("{document:#}"),
        ConfigOutput::Yaml => {
            let text = serde_yaml::to_string(&document).expect("names, numbers, lists and maps");
            print!("{text}");
        }
    }
    ExitCode::SUCCESS
}

fn read(args: &Args) -> Result<(SchedulingConfig, Vec<SettingWarning>), Error> {
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    // Charts render an unset value as an empty one.
    let given = |value: &Option<String>| value.clone().filter(|value| !value.trim().is_empty());
    let (origin, result) = match (given(&args.config_file), given(&args.config_text)) {
        (Some(_), Some(_)) => return Err(Error::Both),
        (Some(file), None) => {
            let text = load(Path::new(&file))?;
            let result = SchedulingConfig::from_document(&text, &env);
            (format!("--config-file {file}"), result)
        }
        (None, Some(text)) => {
            let result = SchedulingConfig::from_document(&text, &env);
            ("--config-text".to_owned(), result)
        }
        (None, None) => {
            let result = SchedulingConfig::from_env(&env);
            ("environment".to_owned(), result)
        }
    };
    result.map_err(|errors| Error::Settings { origin, errors })
}

fn load(file: &Path) -> Result<String, Error> {
    let read = || {
        let mut text = String::new();
        File::open(file)?
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|source| Error::Read {
        file: file.to_owned(),
        source,
    })?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge(file.to_owned()));
    }
    Ok(text)
}
