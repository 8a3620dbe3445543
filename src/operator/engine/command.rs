//! Command, args and env of a container -> its words as the kubelet starts them, the program
//! they start, and the values of its flags. PURE.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;

/// What a container starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    /// `vllm serve`, or vLLM's API server as a Python module.
    Vllm,
    /// SGLang's server.
    Sglang,
    /// Hugging Face's text-generation-launcher.
    Tgi,
    /// NVIDIA's `trtllm-serve`.
    TrtLlm,
    /// A simulator of vLLM, ours or upstream's.
    Simulator,
    /// Nothing is said: the image's own entrypoint, which gets the args.
    Image,
    /// A program that is not known here.
    Other,
}

impl Program {
    /// The port on which it listens where no flag says one.
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Vllm | Self::TrtLlm | Self::Simulator => Some(8000),
            Self::Sglang => Some(30000),
            Self::Tgi => Some(3000),
            Self::Image | Self::Other => None,
        }
    }
}

/// What is known of a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Port {
    /// A flag says it.
    Said(u16),
    /// No flag says one: the program's own default.
    Default(u16),
    /// Nothing that can be read says it.
    Unknown,
}

impl Port {
    /// The number, where it is known.
    pub fn number(self) -> Option<u16> {
        match self {
            Self::Said(port) | Self::Default(port) => Some(port),
            Self::Unknown => None,
        }
    }
}

/// A container's command line.
#[derive(Clone, Debug)]
pub struct CommandLine {
    /// Words of the program itself; of a shell script, those of the engine's line.
    words: Vec<String>,
    program: Program,
    /// The words come from a shell script: nothing may be appended to them.
    is_script: bool,
}

/// Engines by the words that start them.
const STARTS: &[(&[&str], Program)] = &[
    (&["vllm", "serve"], Program::Vllm),
    (&["vllm.entrypoints.openai.api_server"], Program::Vllm),
    (&["vllm.entrypoints.cli.main", "serve"], Program::Vllm),
    (&["sglang.launch_server"], Program::Sglang),
    (&["sglang", "serve"], Program::Sglang),
    (&["text-generation-launcher"], Program::Tgi),
    (&["trtllm-serve"], Program::TrtLlm),
    (&["inference-sim"], Program::Simulator),
    (&["llm-d-inference-sim"], Program::Simulator),
];
const SHELLS: &[&str] = &["sh", "bash", "ash", "dash", "zsh"];
/// Words that end a command in a script.
const SEPARATORS: &[&str] = &["&&", "||", ";", "|", "&", "done", "fi"];

impl CommandLine {
    /// Reads a container.
    pub fn of(container: &Container) -> Self {
        let env: BTreeMap<&str, &str> = container
            .env
            .iter()
            .flatten()
            .filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?)))
            .collect();
        let given = container.command.iter().flatten();
        let words: Vec<String> = given
            .chain(container.args.iter().flatten())
            .map(|word| expanded(word, &env))
            .collect();
        if let Some(script) = script(&words) {
            let words = engine_line(script);
            return Self {
                program: program_of(&words),
                words,
                is_script: true,
            };
        }
        let has_command = container.command.as_ref().is_some_and(|c| !c.is_empty());
        let program = match program_of(&words) {
            Program::Other if !has_command => Program::Image,
            program => program,
        };
        Self {
            words,
            program,
            is_script: false,
        }
    }

    /// What it starts.
    pub fn program(&self) -> Program {
        self.program
    }

    /// True when the words come from a shell script.
    pub fn is_script(&self) -> bool {
        self.is_script
    }

    /// True when one of these flags is there, with or without a value. Dashes and underscores
    /// are alike, as vLLM's parser has it.
    pub fn has(&self, names: &[&str]) -> bool {
        self.position(names).is_some()
    }

    /// The value of the last of these flags: `--flag value` or `--flag=value`. `None` where it is
    /// absent, has no value, or has one that only a shell knows.
    pub fn value(&self, names: &[&str]) -> Option<&str> {
        let at = self.position(names)?;
        let value = match self.words[at].split_once('=') {
            Some((_, value)) => value,
            None => self.words.get(at + 1)?.as_str(),
        };
        let known = !(self.is_script && value.contains(['$', '`']));
        known.then_some(value)
    }

    /// The value of the last of these flags as a number.
    pub fn number<T: std::str::FromStr>(&self, names: &[&str]) -> Option<T> {
        self.value(names)?.trim().parse().ok()
    }

    /// The port that a flag says, or the program's own.
    pub fn port(&self, names: &[&str]) -> Port {
        if self.has(names) {
            let said = self.number::<u16>(names).filter(|port| *port != 0);
            return said.map_or(Port::Unknown, Port::Said);
        }
        // Settings in a file may say anything.
        if self.has(&["--config"]) {
            return Port::Unknown;
        }
        self.program
            .default_port()
            .map_or(Port::Unknown, Port::Default)
    }

    fn position(&self, names: &[&str]) -> Option<usize> {
        self.words.iter().rposition(|word| {
            let name = word.split('=').next().unwrap_or_default();
            names.iter().any(|wanted| alike(name, wanted))
        })
    }
}

fn alike(word: &str, name: &str) -> bool {
    word == name
        || (word.starts_with("--") && word.len() == name.len() && word.replace('_', "-") == name)
}

/// The script of `sh -c SCRIPT`.
fn script(words: &[String]) -> Option<&str> {
    let mut rest = words.iter().skip_while(|word| {
        // Wrappers in front of the shell.
        matches!(
            word.as_str(),
            "tini" | "/usr/bin/tini" | "--" | "env" | "/usr/bin/env"
        )
    });
    let shell = rest.next()?.rsplit('/').next().unwrap_or_default();
    if !SHELLS.contains(&shell) {
        return None;
    }
    let mut rest = rest.skip_while(|word| {
        word.starts_with(['-', '+']) && !(word.starts_with('-') && word.ends_with('c'))
    });
    let flag = rest.next()?;
    flag.starts_with('-')
        .then(|| rest.next().map(String::as_str))?
}

/// The line of a script that starts an engine; all of its words where none is known to.
fn engine_line(script: &str) -> Vec<String> {
    let spaced = script.replace("\\\n", " ").replace(['\n', ';'], " ; ");
    // A script that a shell alone can read (an open quote) is read by its blanks.
    let words = shlex::split(&spaced)
        .unwrap_or_else(|| spaced.split_whitespace().map(str::to_owned).collect());
    let mut lines = words.split(|word| SEPARATORS.contains(&word.as_str()));
    let engine = lines.find(|line| program_of(line) != Program::Other);
    engine.map_or_else(|| words.clone(), <[String]>::to_vec)
}

fn program_of(words: &[String]) -> Program {
    for (starts, program) in STARTS {
        let found = words.windows(starts.len()).any(|window| {
            let mut pairs = window.iter().zip(*starts);
            pairs.all(|(word, wanted)| word.rsplit('/').next() == Some(*wanted))
        });
        if found {
            return *program;
        }
    }
    Program::Other
}

/// A word as the kubelet hands it on: `$(NAME)` is that variable where it has a value here, and
/// `$$(NAME)` the text `$(NAME)`.
fn expanded(word: &str, env: &BTreeMap<&str, &str>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest
            .strip_prefix("$(")
            .and_then(|after| after.split_once(')'));
        let value = name.and_then(|(name, after)| Some((env.get(name)?, after)));
        if let Some((value, after)) = value {
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(command: &[&str], args: &[&str]) -> CommandLine {
        let container = json!({
            "name": "vllm", "command": command, "args": args,
            "env": [{"name": "P", "value": "8200"}],
        });
        CommandLine::of(&serde_json::from_value(container).unwrap())
    }

    #[test]
    fn a_port_is_found_in_every_way_to_start_an_engine() {
        let port = &["--port", "-p"][..];
        for (command, args, program, wanted) in [
            (
                &["vllm", "serve"][..],
                &["m", "--port", "8200"][..],
                Program::Vllm,
                Port::Said(8200),
            ),
            (
                &["/opt/venv/bin/vllm", "serve", "m", "--port=$(P)"],
                &[],
                Program::Vllm,
                Port::Said(8200),
            ),
            (
                &["python3", "-m", "vllm.entrypoints.openai.api_server"],
                &["--port=1", "--port=2"],
                Program::Vllm,
                Port::Said(2),
            ),
            (
                &["/bin/sh", "-c"],
                &["export A=b; exec vllm serve m \\\n --port 8200 && sleep 1"],
                Program::Vllm,
                Port::Said(8200),
            ),
            (
                &["bash", "-lc", "vllm serve m --port ${PORT}"],
                &[],
                Program::Vllm,
                Port::Unknown,
            ),
            (
                &["python", "-m", "sglang.launch_server"],
                &[],
                Program::Sglang,
                Port::Default(30000),
            ),
            (&[], &["--port=9"], Program::Image, Port::Said(9)),
            (&[], &[], Program::Image, Port::Unknown),
            (
                &["vllm", "serve"],
                &["--config", "f"],
                Program::Vllm,
                Port::Unknown,
            ),
            (&["/run.sh"], &[], Program::Other, Port::Unknown),
            (
                &["vllm", "serve"],
                &["m"],
                Program::Vllm,
                Port::Default(8000),
            ),
        ] {
            let line = read(command, args);
            assert_eq!(line.program(), program, "{command:?} {args:?}");
            assert_eq!(line.port(port), wanted, "{command:?} {args:?}");
        }
    }

    #[test]
    fn underscores_are_dashes_and_the_kubelets_dollars_are_read() {
        let line = read(
            &["vllm", "serve"],
            &["--max_model_len", "4096", "$$(P)", "$(NO)"],
        );
        assert_eq!(line.number(&["--max-model-len"]), Some(4096));
        assert_eq!(line.words[4..], ["$(P)", "$(NO)"]);
    }

    proptest! {
        #[test]
        fn any_words_can_be_read(words in proptest::collection::vec(".{0,12}", 0..6)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let line = read(&words, &words);
            let _ = (line.port(&["--port"]), line.value(&["-p"]), line.is_script());
        }
    }
}
