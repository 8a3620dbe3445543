//! Rules of the source tree that no compiler checks: how files open, what pure modules may
//! reach, which generated files must agree.

mod contract;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir)
        .expect("a folder of the source tree")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        rust_files(&root().join(folder), &mut files);
    }
    assert!(files.len() > 50, "the source tree was not found");
    files
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(root())
                .expect("below the root")
                .display()
                .to_string();
            (name, fs::read_to_string(path).expect("a source file"))
        })
        .collect()
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(name, _)| name)
        .collect();
    assert!(
        silent.is_empty(),
        "these files do not open with `//!`: {silent:?}"
    );
}

/// Keys that every line of the JSON log has: a field of the same name would be there twice.
const LOG_KEYS: &[&str] = &["target", "level", "timestamp", "message"];

#[test]
fn no_field_of_a_log_line_hides_another() {
    let mut lines = 0;
    for (name, text) in sources() {
        for line in text.split("tracing::").skip(1) {
            let Some((_, fields)) = line.split_once("!(") else {
                continue;
            };
            let fields = fields.split_once(");").map_or(fields, |(fields, _)| fields);
            lines += 1;
            for field in fields.split(',') {
                let field = field.split('=').next().unwrap_or_default().trim();
                let field = field.trim_start_matches(['%', '?']);
                assert!(
                    !LOG_KEYS.contains(&field),
                    "{name}: the field {field:?} is a key of every log line:\n{fields}"
                );
            }
        }
    }
    assert!(lines > 50, "only {lines} log lines were found");
}

/// What a file that says `PURE` in its opening must not say.
const FORBIDDEN: &[&str] = &[
    "use tokio",
    "use kube::Client",
    "kube::Api",
    "use tracing",
    "tracing::",
    "use hyper",
    "std::net::Tcp",
];

/// True when the file opens with the claim that it decides and never acts. `PURE but for ...`
/// claims less.
fn claims_to_be_pure(text: &str) -> bool {
    let opening: Vec<_> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .collect();
    let opening = opening.concat();
    opening.contains("PURE") && !opening.contains("PURE but")
}

#[test]
fn pure_modules_reach_no_io() {
    let mut pure = 0;
    for (name, text) in sources() {
        if !name.starts_with("src/") || name.ends_with("tests.rs") || !claims_to_be_pure(&text) {
            continue;
        }
        pure += 1;
        for word in FORBIDDEN {
            assert!(
                !text.contains(word),
                "{name} is pure and must not say {word:?}"
            );
        }
    }
    assert!(pure > 150, "only {pure} files say that they are pure");
}

#[test]
fn the_programs_do_not_use_each_other() {
    for (name, text) in sources() {
        let Some(program) = ["bench", "epp", "operator", "proxy", "sim"]
            .into_iter()
            .find(|program| name.starts_with(&format!("src/{program}/")))
        else {
            continue;
        };
        for other in ["epp", "operator", "proxy", "sim"]
            .into_iter()
            .filter(|other| *other != program)
        {
            let word = format!("use crate::{other}::");
            assert!(
                !text.contains(&word),
                "{name} must not say {word:?}: shared things have rooms of their own"
            );
        }
    }
}

/// Larger than any text a person writes here; the lock file and the CRD stay far below.
const LARGEST_FILE_BYTES: u64 = 512 * 1024;

#[test]
fn only_text_that_people_or_generators_wrote_is_in_the_repository() {
    let listed = std::process::Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        eprintln!("SKIPPED: not a git checkout, so what is committed is not known");
        return;
    };
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let heavy: Vec<_> = names
        .split('\0')
        .filter(|name| {
            fs::metadata(root().join(name)).is_ok_and(|file| file.len() > LARGEST_FILE_BYTES)
        })
        .collect();
    assert!(heavy.is_empty(), "build products are committed: {heavy:?}");
}

#[test]
fn the_chart_ships_the_generated_crd() {
    let generated = fs::read_to_string(root().join("crds/llm-d.ai_modelservices.yaml")).unwrap();
    let shipped =
        fs::read_to_string(root().join("charts/llm-d-operator/crds/llm-d.ai_modelservices.yaml"))
            .unwrap();
    assert!(generated == shipped, "run `make generate`");
    assert!(
        generated.len() < 60_000,
        "kubectl apply keeps a copy in an annotation: stay small"
    );
}

#[test]
fn the_deviations_name_tests_that_exist() {
    let text =
        fs::read_to_string(root().join("docs/deviations.md")).expect("docs/deviations.md is there");
    let sources = sources();
    let mut rows = 0;
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = line
            .replace("\\|", "")
            .split('|')
            .map(str::to_owned)
            .collect();
        if cells[1].trim() == "What" {
            continue;
        }
        rows += 1;
        assert_eq!(cells.len(), 8, "{line}");
        let names: Vec<_> = cells[5].split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test pins: {line}");
        for name in names {
            let declared = format!("fn {name}(");
            assert!(
                sources.iter().any(|(_, text)| text.contains(&declared)),
                "docs/deviations.md names the test {name}, which does not exist"
            );
        }
    }
    assert!(rows > 30, "the tables were not found");
}
