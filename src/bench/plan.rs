//! What the caller wants -> every request of the test, in order. PURE: sends nothing.
#![deny(clippy::disallowed_methods)]

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::prompts;

/// The most requests of one run: their rows are all kept and all drawn.
pub const MOST_REQUESTS: usize = 20_000;
/// The most probes that measure how long system prompts are.
const MOST_PROBES: usize = 16;
/// Tokens that the health check may generate.
const HEALTH_TOKENS: u64 = 4;

/// The load, as the caller asked for it. Field names are part of the JSON outcome.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Workload {
    /// The model that requests name.
    pub model: String,
    /// Measured requests of each session.
    pub requests: usize,
    /// Requests before the baseline, in a session of their own.
    pub warmup: usize,
    /// Sessions; their requests take turns.
    pub sessions: usize,
    /// Shared system prompts that sessions are spread over; 0 sends one prompt everywhere.
    pub prefix_groups: usize,
    /// Words of each shared system prompt.
    pub prefix_words: usize,
    /// Requests in flight at once.
    pub concurrency: usize,
    /// Pause after each request, in seconds.
    pub sleep_seconds: f64,
    /// Tokens that each request may generate.
    pub max_tokens: u64,
    /// Whether answers are streamed, which makes the first token visible.
    pub stream: bool,
    /// Whether requests carry session headers.
    pub session_headers: bool,
    /// Whether every prompt opens with the run's id, so that no cache knows it.
    pub fresh: bool,
    /// Whether the prompt comes from a file of the caller.
    pub own_prompt: bool,
}

/// A load that makes no sense.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// A count is zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// More than [`MOST_REQUESTS`].
    #[error("{0} requests are more than {MOST_REQUESTS}")]
    TooMany(usize),
    /// A prompt file together with generated prompts.
    #[error("prompt-file and prefix-groups exclude each other")]
    PromptAndGroups,
    /// The prompt file is empty.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The pause is negative or not a number.
    #[error("sleep must be 0 or more seconds, not {0}")]
    Sleep(String),
}

/// One request of the plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Whose headers it carries; `None` carries no session headers, as the health check.
    pub session: Option<Session>,
    /// Number of the session, for the figures; 0 for warm-up, health check and probes.
    pub session_index: usize,
    /// Which of its session's requests this is, from 0.
    pub turn: usize,
    /// The shared system prompt in front of it.
    pub group: Option<usize>,
    /// Requests of the same number have the same messages.
    pub text: usize,
    /// The user's message.
    user: String,
    /// Tokens that it may generate.
    pub max_tokens: u64,
}

/// The headers of a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// The session's id.
    pub id: String,
    /// Warm-up requests carry no credentials and no cookie.
    pub signed_in: bool,
}

/// Everything that will be sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names the run in headers and in the outcome.
    pub run_id: String,
    /// Before the baseline.
    pub warmup: Vec<Request>,
    /// After the baseline, before the measured requests.
    pub health: Request,
    /// The measured requests, in order.
    pub measured: Vec<Request>,
    /// After the window, only where the engine does not tokenize for us: each group's
    /// system prompt with the health check's message.
    pub probes: Vec<Request>,
    workload: Workload,
    systems: Vec<String>,
}

/// Lays out the run. `prompt` replaces the built-in prompt.
///
/// # Errors
/// When the workload makes no sense.
pub fn plan(workload: &Workload, prompt: Option<&str>, run_id: &str) -> Result<Plan, Error> {
    check(workload, prompt)?;
    let opening = if workload.fresh {
        format!("Reference {run_id}. ")
    } else {
        String::new()
    };
    let systems: Vec<String> = (0..workload.prefix_groups)
        .map(|group| {
            format!(
                "{opening}{}",
                prompts::handbook(group, workload.prefix_words)
            )
        })
        .collect();
    let one_prompt = format!("{opening}{}", prompt.unwrap_or(prompts::PROMPT).trim());
    let request = |session: Option<Session>, index: usize, turn: usize| {
        let group = (workload.prefix_groups > 0).then(|| index % workload.prefix_groups.max(1));
        Request {
            session,
            session_index: index,
            turn,
            group,
            // 0 is the health check, 1 the one prompt.
            text: group.map_or(1, |_| 2 + index * workload.requests.max(1) + turn),
            user: group.map_or_else(|| one_prompt.clone(), |_| prompts::question(index, turn)),
            max_tokens: workload.max_tokens,
        }
    };
    let session_of = |index: usize| {
        workload.session_headers.then(|| Session {
            id: if workload.sessions == 1 {
                format!("cache-hit-{run_id}")
            } else {
                format!("cache-hit-{run_id}-{}", index + 1)
            },
            signed_in: true,
        })
    };
    let warmup = (0..workload.warmup)
        .map(|index| {
            let session = Session {
                id: format!("warmup-{run_id}"),
                signed_in: false,
            };
            // Sessions of their own numbers: their questions are asked only once.
            let mut request = request(Some(session), workload.sessions + index, 0);
            request.group = request.group.map(|_| index % workload.prefix_groups);
            request
        })
        .collect();
    // Sessions take turns, as users do.
    let measured = (0..workload.requests)
        .flat_map(|turn| (0..workload.sessions).map(move |index| (index, turn)))
        .map(|(index, turn)| request(session_of(index), index, turn))
        .collect();
    let health = Request {
        session: None,
        session_index: 0,
        turn: 0,
        group: None,
        text: 0,
        user: prompts::HEALTH_CHECK.to_owned(),
        max_tokens: HEALTH_TOKENS,
    };
    let probes = (0..workload.prefix_groups.min(MOST_PROBES))
        .map(|group| Request {
            group: Some(group),
            max_tokens: 1,
            ..health.clone()
        })
        .collect();
    Ok(Plan {
        run_id: run_id.to_owned(),
        warmup,
        health,
        measured,
        probes,
        workload: workload.clone(),
        systems,
    })
}

fn check(workload: &Workload, prompt: Option<&str>) -> Result<(), Error> {
    for (name, count) in [
        ("requests", workload.requests),
        ("sessions", workload.sessions),
        ("concurrency", workload.concurrency),
    ] {
        if count == 0 {
            return Err(Error::Zero(name));
        }
    }
    let all = workload
        .requests
        .saturating_mul(workload.sessions)
        .saturating_add(workload.warmup);
    if all > MOST_REQUESTS {
        return Err(Error::TooMany(all));
    }
    if prompt.is_some() && workload.prefix_groups > 0 {
        return Err(Error::PromptAndGroups);
    }
    if prompt.is_some_and(|prompt| prompt.trim().is_empty()) {
        return Err(Error::EmptyPrompt);
    }
    if !(workload.sleep_seconds.is_finite() && workload.sleep_seconds >= 0.0) {
        return Err(Error::Sleep(workload.sleep_seconds.to_string()));
    }
    Ok(())
}

impl Plan {
    /// The chat messages of a request, as the API takes them.
    pub fn messages(&self, request: &Request) -> Value {
        let user = json!({"role": "user", "content": request.user});
        match request.group.and_then(|group| self.systems.get(group)) {
            Some(system) => json!([{"role": "system", "content": system}, user]),
            None => json!([user]),
        }
    }

    /// The body of `POST /v1/chat/completions`.
    pub fn body(&self, request: &Request) -> Value {
        let mut body = json!({
            "model": self.workload.model,
            "messages": self.messages(request),
            "max_tokens": request.max_tokens,
            "temperature": 0.0,
        });
        if request.text != 0 {
            body["top_p"] = json!(1.0);
            body["seed"] = json!(12345);
            if self.workload.stream {
                body["stream"] = json!(true);
                body["stream_options"] = json!({"include_usage": true});
            }
        }
        body
    }

    /// The body of the engine's `POST /tokenize` for the same messages
    /// (<https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>).
    pub fn tokenize_body(&self, request: &Request) -> Value {
        json!({
            "model": self.workload.model,
            "messages": self.messages(request),
            "add_generation_prompt": true,
        })
    }

    /// The headers of a request beyond host and content type. `bearer` replaces the made-up
    /// token where the gateway asks for a real one.
    pub fn headers(&self, request: &Request, bearer: Option<&str>) -> Vec<(&'static str, String)> {
        let mut headers = vec![("user-agent", USER_AGENT.to_owned())];
        if request.text != 0 {
            headers.push(("x-test-id", self.run_id.clone()));
        }
        if let Some(session) = &request.session {
            headers.push(("session-id", session.id.clone()));
            headers.push(("x-session-id", session.id.clone()));
            if session.signed_in {
                headers.push(("cookie", format!("session_id={}", session.id)));
            }
        }
        let made_up = request
            .session
            .as_ref()
            .filter(|session| session.signed_in)
            .map(|session| format!("cache-hit-test-{}", session.id));
        if let Some(token) = bearer.map(str::to_owned).or(made_up) {
            headers.push(("authorization", format!("Bearer {token}")));
        }
        headers
    }
}

const USER_AGENT: &str = concat!("llm-d-operator-bench/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn workload() -> Workload {
        Workload {
            model: "m".to_owned(),
            requests: 30,
            warmup: 1,
            sessions: 1,
            prefix_groups: 0,
            prefix_words: 100,
            concurrency: 1,
            sleep_seconds: 0.8,
            max_tokens: 16,
            stream: false,
            session_headers: true,
            fresh: false,
            own_prompt: false,
        }
    }

    #[test]
    fn the_plain_test_sends_one_prompt_thirty_times_in_one_session() {
        let plan = plan(&workload(), None, "r1").unwrap();
        assert_eq!(plan.measured.len(), 30);
        let bodies: Vec<_> = plan
            .measured
            .iter()
            .map(|request| plan.body(request))
            .collect();
        assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(
            bodies[0],
            json!({
                "model": "m", "messages": [{"role": "user", "content": prompts::PROMPT}],
                "max_tokens": 16, "temperature": 0.0, "top_p": 1.0, "seed": 12345,
            })
        );
        let headers = plan.headers(&plan.measured[7], None);
        for (name, value) in [
            ("session-id", "cache-hit-r1"),
            ("x-session-id", "cache-hit-r1"),
            ("x-test-id", "r1"),
            ("authorization", "Bearer cache-hit-test-cache-hit-r1"),
            ("cookie", "session_id=cache-hit-r1"),
        ] {
            assert!(headers.contains(&(name, value.to_owned())), "{name}");
        }
    }

    #[test]
    fn the_warm_up_has_the_same_prompt_and_a_session_of_its_own() {
        let plan = plan(&workload(), None, "r1").unwrap();
        assert_eq!(plan.warmup.len(), 1);
        assert_eq!(plan.body(&plan.warmup[0]), plan.body(&plan.measured[0]));
        let headers = plan.headers(&plan.warmup[0], None);
        assert!(headers.contains(&("session-id", "warmup-r1".to_owned())));
        assert!(!headers.iter().any(|(name, _)| *name == "authorization"));
    }

    #[test]
    fn the_health_check_is_short_and_belongs_to_no_session() {
        let plan = plan(&workload(), None, "r1").unwrap();
        assert_eq!(plan.body(&plan.health)["max_tokens"], 4);
        let headers = plan.headers(&plan.health, None);
        assert!(!headers.iter().any(|(name, _)| name.contains("session")));
    }

    #[test]
    fn sessions_take_turns_and_are_spread_over_the_groups() {
        let workload = Workload {
            sessions: 4,
            requests: 2,
            prefix_groups: 2,
            warmup: 3,
            ..workload()
        };
        let plan = plan(&workload, None, "r1").unwrap();
        let order: Vec<_> = plan
            .measured
            .iter()
            .map(|request| (request.session_index, request.turn, request.group))
            .collect();
        assert_eq!(
            order[..3],
            [(0, 0, Some(0)), (1, 0, Some(1)), (2, 0, Some(0))]
        );
        assert_eq!(order[4], (0, 1, Some(0)));
        let mut texts: Vec<_> = plan
            .measured
            .iter()
            .chain(&plan.warmup)
            .map(|request| request.text)
            .collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 11, "every question is asked once");
        let system = |request: &Request| plan.messages(request)[0]["content"].clone();
        assert_eq!(system(&plan.measured[0]), system(&plan.measured[2]));
        assert_ne!(system(&plan.measured[0]), system(&plan.measured[1]));
        assert_eq!(plan.probes.len(), 2);
    }

    #[test]
    fn without_session_headers_nothing_tells_the_sessions_apart() {
        let workload = Workload {
            session_headers: false,
            sessions: 2,
            ..workload()
        };
        let plan = plan(&workload, None, "r1").unwrap();
        assert_eq!(
            plan.headers(&plan.measured[0], None),
            plan.headers(&plan.measured[1], None)
        );
    }

    #[test]
    fn a_load_that_makes_no_sense_is_refused() {
        let refuse = |workload: Workload, prompt: Option<&str>| {
            plan(&workload, prompt, "r").map(|_| ()).unwrap_err()
        };
        let none = Workload {
            requests: 0,
            ..workload()
        };
        assert_eq!(refuse(none, None), Error::Zero("requests"));
        let many = Workload {
            sessions: 10_000,
            ..workload()
        };
        assert_eq!(refuse(many, None), Error::TooMany(300_001));
        let both = Workload {
            prefix_groups: 1,
            ..workload()
        };
        assert_eq!(refuse(both, Some("x")), Error::PromptAndGroups);
        assert_eq!(refuse(workload(), Some(" \n")), Error::EmptyPrompt);
        let never = Workload {
            sleep_seconds: f64::NAN,
            ..workload()
        };
        assert_eq!(refuse(never, None), Error::Sleep("NaN".to_owned()));
    }

    #[test]
    fn a_fresh_run_opens_its_prompts_with_its_id() {
        let workload = Workload {
            fresh: true,
            ..workload()
        };
        let plan = plan(&workload, None, "r9").unwrap();
        let text = plan.messages(&plan.measured[0])[0]["content"].clone();
        assert!(
            text.as_str()
                .unwrap()
                .starts_with("Reference r9. You advise")
        );
    }
}
