//! The operator's key for the prefill engines -> the `Authorization` of prefill legs. IO (one
//! small file). The key is never logged, and a client's own never goes there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::HeaderValue;
use tokio::sync::watch;

use crate::telemetry::shutdown::Shutdown;

/// How often the file is read again: kubelets replace the files of a changed Secret.
pub const REREAD: Duration = Duration::from_secs(30);
/// Keys are shorter.
const MAX_BYTES: usize = 16 << 10;

/// The key, which may change; cheap to clone.
#[derive(Clone, Debug)]
pub struct Key(watch::Receiver<Option<HeaderValue>>);

impl Key {
    /// No key.
    pub fn none() -> Self {
        Self(watch::channel(None).1)
    }

    /// This key, for ever.
    ///
    /// # Errors
    /// When it cannot be a header's value.
    pub fn fixed(text: &str) -> anyhow::Result<Self> {
        Ok(Self(watch::channel(Some(header(text)?)).1))
    }

    /// The key in this file, read again every so often while the program runs. An unreadable or
    /// empty file leaves the key as it was.
    ///
    /// # Errors
    /// When the file cannot be read now, or holds no key.
    pub fn file(path: PathBuf, every: Duration, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let (sender, key) = watch::channel(Some(read(&path)?));
        let until = shutdown.clone();
        shutdown.spawn("prefill key", async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(every) => {}
                    () = until.requested() => return Ok(()),
                }
                match read(&path) {
                    Ok(key) => sender.send_if_modified(|old| {
                        let changed = old.as_ref() != Some(&key);
                        *old = Some(key);
                        changed
                    }),
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "the old key stays");
                        false
                    }
                };
            }
        });
        Ok(Self(key))
    }

    /// The header's value now.
    pub fn now(&self) -> Option<HeaderValue> {
        self.0.borrow().clone()
    }
}

fn read(path: &Path) -> anyhow::Result<HeaderValue> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--prefill-authorization-file {}", path.display()))?;
    header(&text).with_context(|| format!("--prefill-authorization-file {}", path.display()))
}

/// A bare key is a bearer token; a text with a scheme (`Basic ...`) is taken as it is.
fn header(text: &str) -> anyhow::Result<HeaderValue> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_BYTES {
        bail!("a key of {} bytes is none", text.len());
    }
    let value = if text.contains(' ') {
        HeaderValue::from_str(text)
    } else {
        HeaderValue::from_str(&format!("Bearer {text}"))
    };
    // The error says nothing of the key.
    let mut value = value
        .ok()
        .context("the key has bytes that no header may have")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_becomes_a_header_that_logs_nothing() {
        let value = |text| Key::fixed(text).unwrap().now().unwrap();
        assert_eq!(value(" secret\n"), "Bearer secret");
        assert_eq!(value("Basic c2VjcmV0"), "Basic c2VjcmV0");
        assert!(!format!("{:?}", Key::fixed("secret").unwrap()).contains("secret"));
        for bad in ["", " \n", "a\nb", "a\0b"] {
            let error = Key::fixed(bad).unwrap_err();
            assert!(!format!("{error:#}").contains("a\\nb"), "{error:#}");
        }
        assert!(Key::none().now().is_none());
    }

    #[tokio::test]
    async fn a_file_that_changes_changes_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let (every, shutdown) = (Duration::from_millis(1), Shutdown::new());
        assert!(Key::file(path.clone(), every, &shutdown).is_err());
        std::fs::write(&path, "one\n").unwrap();
        let mut key = Key::file(path.clone(), every, &shutdown).unwrap();
        assert_eq!(key.now().unwrap(), "Bearer one");
        // An empty file is no key: the old one stays until there is another.
        std::fs::write(&path, "").unwrap();
        std::fs::write(&path, "two").unwrap();
        key.0.changed().await.unwrap();
        assert_eq!(key.now().unwrap(), "Bearer two");
        shutdown.begin();
        shutdown.finished().await.unwrap();
    }
}
