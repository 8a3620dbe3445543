//! A request's prompt -> tokens from the best source there is: tokenizer files in this process,
//! else the engine, else none.

use std::borrow::Borrow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::task;

use super::cache::{CacheStats, TokenCache};
use super::chat_template::{ChatOptions, Civil};
use super::local::{EncodeError, Tokenizer};
use super::remote::{Remote, RemoteError};
use crate::kv::metrics::{Metrics, TOKENS_KNOWN, TokenSource};

/// A prompt of up to this many bytes is tokenized on the worker that asks: one or two
/// milliseconds where nothing of it is cached, about what waiting for another thread costs on a
/// busy machine. Longer ones go to the blocking pool, so that no stream on that worker waits for
/// them. (`block_in_place` would save the copy but needs a runtime with several workers.)
const INLINE_BYTES: usize = 4096;
/// How long a prompt waits for one of the threads that tokenize.
const BUSY_WAIT: Duration = Duration::from_millis(100);

/// What the caller of [`Tokenizers::tokens`] runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CallerThread {
    /// A worker of the runtime, on which other streams wait: long texts leave it.
    Async,
    /// A thread of the blocking pool: work stays on it. Waiting there for another thread of the
    /// same bounded pool could wait for ever, since the others may wait likewise.
    Blocking,
}

/// What a request wants answered.
#[derive(Clone, Debug)]
pub struct PromptRef<'a> {
    /// The model asked for.
    pub model: &'a str,
    /// The prompt.
    pub prompt: Prompt<'a>,
}

/// The prompt of a request.
#[derive(Clone, Debug)]
pub enum Prompt<'a> {
    /// The prompt of a completion, decoded from its JSON string.
    Text(&'a str),
    /// A prompt that is tokens already.
    Tokens(Vec<u32>),
    /// A chat.
    Chat {
        /// The messages, as they stand in the body.
        messages: &'a RawValue,
        /// The whole body: tools and variables of the template are in it.
        body: &'a [u8],
    },
}

/// What came of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tokens {
    /// The tokens the engine will make.
    Exact(Arc<[u32]>),
    /// None, for this reason.
    Unavailable(Reason),
}

/// Why there are no tokens. A closed set: the names are label values.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// There is no tokenizer here and no engine to ask.
    NoSource,
    /// All threads that tokenize are busy.
    Busy,
    /// The prompt is not readable as what it says it is.
    Request,
    /// Images, audio or video.
    Multimodal,
    /// The template refuses the chat, or fails.
    Template,
    /// The tokenizer failed.
    Tokenizer,
    /// The engine gave none.
    Remote(RemoteError),
}

impl Reason {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSource => "no_source",
            Self::Busy => "busy",
            Self::Request => "request",
            Self::Multimodal => "multimodal",
            Self::Template => "template",
            Self::Tokenizer => "tokenizer",
            Self::Remote(error) => match error {
                RemoteError::CircuitOpen => "circuit_open",
                RemoteError::Timeout => "timeout",
                RemoteError::Unreachable => "unreachable",
                RemoteError::NoEndpoint => "no_endpoint",
                RemoteError::UnknownModel => "unknown_model",
                RemoteError::Refused => "refused",
                RemoteError::Failed => "failed",
                RemoteError::Malformed => "malformed",
            },
        }
    }
}

/// How prompts are tokenized.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Tokens of known text to keep, 4 bytes each.
    pub cache_tokens: usize,
    /// How long an engine may take.
    pub remote_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_tokens: 16 << 20,
            remote_timeout: Duration::from_millis(200),
        }
    }
}

#[derive(Debug)]
struct Local {
    tokenizer: Tokenizer,
    cache: TokenCache,
}

/// Every source of tokens. Requests share no lock in here.
#[derive(Debug)]
pub struct Tokenizers {
    local: Option<Arc<Local>>,
    remote: Remote,
    /// Tokenizing is CPU work: more threads than cores would only wait for each other.
    threads: Arc<Semaphore>,
    metrics: Metrics,
    started: (Instant, SystemTime),
}

impl Tokenizers {
    /// With the tokenizer of the model, if its files are here. `started` is one moment on both
    /// clocks: templates may print today's date.
    pub fn new(
        local: Option<Tokenizer>,
        settings: Settings,
        metrics: Metrics,
        started: (Instant, SystemTime),
    ) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            local: local.map(|tokenizer| {
                let cache = TokenCache::new(settings.cache_tokens);
                Arc::new(Local { tokenizer, cache })
            }),
            remote: Remote::new(settings.remote_timeout, started.0),
            threads: Arc::new(Semaphore::new(cores)),
            metrics,
            started,
        }
    }

    /// Whether tokens are made in this process.
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// What the cache of known text has done.
    pub fn cache_stats(&self) -> CacheStats {
        self.local
            .as_ref()
            .map(|local| local.cache.stats())
            .unwrap_or_default()
    }

    /// The tokens of a prompt; `engine` is asked where this process cannot make them.
    ///
    /// The local tokenizer is used whatever model is named: one server has one base model, and
    /// adapters and aliases share its tokenizer.
    pub async fn tokens(
        &self,
        request: PromptRef<'_>,
        engine: Option<SocketAddr>,
        now: Instant,
        caller: CallerThread,
    ) -> Tokens {
        let prompt = match request.prompt {
            Prompt::Tokens(tokens) => {
                self.metrics
                    .tokenized(TokenSource::Request, TOKENS_KNOWN, now.elapsed());
                return Tokens::Exact(tokens.into());
            }
            prompt => prompt,
        };
        if let Some(local) = &self.local {
            let tokens = self.local(local, &prompt, now, caller).await;
            let outcome = match &tokens {
                Ok(_) => TOKENS_KNOWN,
                Err(LocalError::Engine) => "left_to_engine",
                Err(LocalError::Reason(reason)) => reason.as_str(),
            };
            self.metrics
                .tokenized(TokenSource::Local, outcome, now.elapsed());
            match tokens {
                Ok(tokens) => return Tokens::Exact(tokens.into()),
                Err(LocalError::Reason(reason)) => return Tokens::Unavailable(reason),
                Err(LocalError::Engine) => {}
            }
        }
        let Some(engine) = engine else {
            self.metrics
                .tokenized(TokenSource::None, Reason::NoSource.as_str(), now.elapsed());
            return Tokens::Unavailable(Reason::NoSource);
        };
        let asked = Instant::now();
        let answer = self
            .remote
            .tokens(engine, request.model, &prompt, now)
            .await
            .map_err(Reason::Remote);
        let outcome = answer
            .as_ref()
            .map_or_else(|reason| reason.as_str(), |_| TOKENS_KNOWN);
        self.metrics
            .tokenized(TokenSource::Remote, outcome, asked.elapsed());
        match answer {
            Ok(tokens) => Tokens::Exact(tokens.into()),
            Err(reason) => Tokens::Unavailable(reason),
        }
    }

    async fn local(
        &self,
        local: &Arc<Local>,
        prompt: &Prompt<'_>,
        now: Instant,
        caller: CallerThread,
    ) -> Result<Vec<u32>, LocalError> {
        let work = Work::read(prompt, self.date(now))?;
        if work.bytes() <= INLINE_BYTES {
            return Ok(work.run(local)?);
        }
        let permit = tokio::time::timeout(BUSY_WAIT, Arc::clone(&self.threads).acquire_owned())
            .await
            .map_err(|_| LocalError::Reason(Reason::Busy))?
            .expect("the semaphore is never closed");
        if caller == CallerThread::Blocking {
            return Ok(work.run(local)?);
        }
        let local = Arc::clone(local);
        let work = work.into_owned();
        let tokens = task::spawn_blocking(move || {
            let tokens = work.run(&local);
            // The permit goes with the work, not with a caller that stopped waiting for it.
            drop(permit);
            tokens
        })
        .await
        .map_err(|_| LocalError::Reason(Reason::Tokenizer))?;
        Ok(tokens?)
    }

    fn date(&self, now: Instant) -> Civil {
        let wall = self.started.1 + now.saturating_duration_since(self.started.0);
        let seconds = wall
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Civil::from_unix_seconds(seconds as i64)
    }
}

/// Why the local tokenizer gave nothing.
enum LocalError {
    /// The engine can do it.
    Engine,
    /// Nobody can, or should.
    Reason(Reason),
}

impl From<EncodeError> for LocalError {
    fn from(error: EncodeError) -> Self {
        Self::Reason(match error {
            EncodeError::NoTemplate | EncodeError::Unsupported(_) => return Self::Engine,
            EncodeError::Messages(_) => Reason::Request,
            EncodeError::Multimodal => Reason::Multimodal,
            EncodeError::Template(_) => Reason::Template,
            EncodeError::Tokenize(_) => Reason::Tokenizer,
        })
    }
}

/// What is to be tokenized here.
enum Work<Text, Messages> {
    Completion(Text),
    Chat(Messages, Box<ChatOptions>),
}

impl<'a> Work<&'a str, &'a RawValue> {
    fn read(prompt: &'a Prompt<'_>, date: Civil) -> Result<Self, EncodeError> {
        Ok(match prompt {
            Prompt::Text(text) => Self::Completion(text),
            Prompt::Tokens(_) => return Err(EncodeError::Unsupported("a prompt of tokens")),
            Prompt::Chat { messages, body } => {
                let mut options = ChatOptions::from_body(body)?;
                options.date = Some(date);
                Self::Chat(messages, Box::new(options))
            }
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Completion(text) => text.len(),
            Self::Chat(messages, _) => messages.get().len(),
        }
    }

    fn into_owned(self) -> Work<String, Box<RawValue>> {
        match self {
            Self::Completion(text) => Work::Completion(text.to_owned()),
            Self::Chat(messages, options) => Work::Chat(messages.to_owned(), options),
        }
    }
}

impl<Text: Borrow<str>, Messages: Borrow<RawValue>> Work<Text, Messages> {
    fn run(&self, local: &Local) -> Result<Vec<u32>, EncodeError> {
        let Local { tokenizer, cache } = local;
        match self {
            Self::Completion(text) => cache.encode(tokenizer, text.borrow(), true),
            Self::Chat(messages, options) => {
                let text = tokenizer.render(messages.borrow(), options)?;
                cache.encode(tokenizer, &text, options.add_special_tokens)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::net::TcpListener;

    use super::*;
    use crate::kv::tokenize::testing::{load, raw, tiny_model};

    const ASYNC: CallerThread = CallerThread::Async;

    fn tokenizers(local: Option<Tokenizer>) -> (Tokenizers, Registry) {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let started = (
            Instant::now(),
            UNIX_EPOCH + Duration::from_secs(1_709_211_909),
        );
        let tokenizers = Tokenizers::new(local, Settings::default(), metrics, started);
        (tokenizers, registry)
    }

    fn page(registry: &Registry) -> String {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, registry).unwrap();
        page
    }

    fn text(prompt: &str) -> PromptRef<'_> {
        PromptRef {
            model: "m",
            prompt: Prompt::Text(prompt),
        }
    }

    fn exact(tokens: Tokens) -> Vec<u32> {
        match tokens {
            Tokens::Exact(tokens) => tokens.to_vec(),
            Tokens::Unavailable(reason) => panic!("no tokens: {}", reason.as_str()),
        }
    }

    #[tokio::test]
    async fn short_and_long_prompts_get_the_tokenizers_tokens() {
        let expected = load(&tiny_model());
        let (tokenizers, registry) = tokenizers(Some(load(&tiny_model())));
        for count in [1, 10_000] {
            let prompt = "the quick brown fox ".repeat(count);
            let tokens = tokenizers
                .tokens(text(&prompt), None, Instant::now(), ASYNC)
                .await;
            assert_eq!(exact(tokens), expected.completion(&prompt).unwrap());
        }
        let page = page(&registry);
        assert!(
            page.contains(r#"llm_d_epp_kv_tokenized_total{source="local",outcome="ok"} 2"#),
            "{page}"
        );
    }

    #[test]
    fn callers_that_fill_the_blocking_pool_still_get_their_tokens() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .build()
            .unwrap();
        // Dropped, it would wait for threads that wait for ever.
        let runtime = Box::leak(Box::new(runtime));
        let prompt = "the quick brown fox ".repeat(10_000);
        let expected = load(&tiny_model()).completion(&prompt).unwrap();
        let tokenizers = Arc::new(tokenizers(Some(load(&tiny_model()))).0);
        runtime.block_on(async {
            let callers: Vec<_> = (0..8)
                .map(|_| {
                    let (tokenizers, prompt) = (Arc::clone(&tokenizers), prompt.clone());
                    let runtime = tokio::runtime::Handle::current();
                    task::spawn_blocking(move || {
                        let caller = CallerThread::Blocking;
                        runtime.block_on(tokenizers.tokens(
                            text(&prompt),
                            None,
                            Instant::now(),
                            caller,
                        ))
                    })
                })
                .collect();
            for caller in callers {
                let tokens = tokio::time::timeout(Duration::from_mins(1), caller).await;
                assert_eq!(exact(tokens.expect("a deadlock").unwrap()), expected);
            }
        });
    }

    #[tokio::test]
    async fn a_chat_is_read_with_its_body_and_todays_date() {
        let expected = load(&tiny_model());
        let (tokenizers, _) = tokenizers(Some(load(&tiny_model())));
        let messages = raw(r#"[{"role":"user","content":"hi"}]"#);
        let request = PromptRef {
            model: "m",
            prompt: Prompt::Chat {
                messages: &messages,
                body: br#"{"model":"m","add_generation_prompt":false,"tools":null}"#,
            },
        };
        let later = tokenizers.started.0 + Duration::from_hours(24);
        let tokens = exact(tokenizers.tokens(request, None, later, ASYNC).await);
        let text = expected.decode(&tokens);
        assert!(text.contains("Today Date: 01 Mar 2024"), "{text}");
        assert!(text.ends_with("hi<|eot_id|>"), "{text}");
    }

    #[tokio::test]
    async fn a_prompt_of_tokens_needs_no_tokenizer() {
        let (tokenizers, _) = tokenizers(None);
        let request = PromptRef {
            model: "m",
            prompt: Prompt::Tokens(vec![1, 2]),
        };
        let tokens = tokenizers
            .tokens(request, None, Instant::now(), ASYNC)
            .await;
        assert_eq!(exact(tokens), [1, 2]);
    }

    #[tokio::test]
    async fn without_a_tokenizer_the_engine_is_asked_and_without_an_engine_nobody() {
        let (tokenizers, registry) = tokenizers(None);
        let none = tokenizers
            .tokens(text("a"), None, Instant::now(), ASYNC)
            .await;
        assert_eq!(none, Tokens::Unavailable(Reason::NoSource));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let engine = listener.local_addr().unwrap();
        drop(listener);
        let none = tokenizers
            .tokens(text("a"), Some(engine), Instant::now(), ASYNC)
            .await;
        let unreachable = Reason::Remote(RemoteError::Unreachable);
        assert_eq!(none, Tokens::Unavailable(unreachable));
        let page = page(&registry);
        assert!(
            page.contains(r#"{source="none",outcome="no_source"} 1"#),
            "{page}"
        );
        assert!(
            page.contains(r#"{source="remote",outcome="unreachable"} 1"#),
            "{page}"
        );
    }

    #[tokio::test]
    async fn a_chat_that_nobody_can_read_is_not_sent_to_the_engine() {
        let (tokenizers, _) = tokenizers(Some(load(&tiny_model())));
        let engine = "127.0.0.1:9".parse().unwrap();
        for (messages, reason) in [
            ("[{}]", Reason::Request),
            (
                r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#,
                Reason::Multimodal,
            ),
            (
                r#"[{"role":"user","content":"a"},{"role":"assistant","tool_calls":[{"function":{"name":"a"}},{"function":{"name":"b"}}]}]"#,
                Reason::Template,
            ),
        ] {
            let messages = raw(messages);
            let request = PromptRef {
                model: "m",
                prompt: Prompt::Chat {
                    messages: &messages,
                    body: b"{}",
                },
            };
            let none = tokenizers
                .tokens(request, Some(engine), Instant::now(), ASYNC)
                .await;
            assert_eq!(none, Tokens::Unavailable(reason));
        }
    }
}
