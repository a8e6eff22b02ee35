//! A file behind a URL, known by its digest.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::error::SourceError;
use super::sha256::Sha256;

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Https {
    /// The address of the file, https://.
    pub url: String,
    /// The digest of the file, as `sha256sum` prints it.
    pub sha256: Sha256,
}

impl Https {
    /// What the file is called in the cache.
    pub fn name(&self) -> &str {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        match path.rsplit('/').next().unwrap_or_default() {
            "" | "." | ".." => "file",
            name => name,
        }
    }

    pub fn fetch(&self, cache: &Cache) -> Result<PathBuf, SourceError> {
        if !is_safe(&self.url) {
            return Err(SourceError::Syntax(format!(
                "`{}` is not an https address",
                self.url
            )));
        }
        let name = self.name();
        (cache.file(&self.sha256, name, |out, _| self.download(name, out)))
            .map_err(|error| named(error, &self.url))
    }

    fn download(&self, name: &str, out: &mut dyn Write) -> Result<(), SourceError> {
        let agent = ureq::AgentBuilder::new()
            .try_proxy_from_env(true)
            .timeout_connect(Duration::from_secs(30))
            .timeout_read(Duration::from_secs(120))
            .build();
        let failed = |reason: String, hint: &str| SourceError::fetch(&self.url, reason, hint);
        let response = agent.get(&self.url).call().map_err(|error| match error {
            ureq::Error::Status(404 | 410, _) => {
                failed("there is no such file".into(), "check the address")
            }
            ureq::Error::Status(code, response) => failed(
                format!("the server answered {code} {}", response.status_text()),
                "check the address, or try again later",
            ),
            ureq::Error::Transport(error) => failed(error.to_string(), "is the network there?"),
        })?;
        let size = response
            .header("Content-Length")
            .and_then(|n| n.parse().ok());
        let bar = progress(name, size);
        let mut reader = bar.wrap_read(response.into_reader());
        copy(&mut reader, out, &self.url)?;
        bar.finish_and_clear();
        Ok(())
    }
}

/// Encrypted, or to this machine itself.
fn is_safe(url: &str) -> bool {
    let local = ["http://127.0.0.1:", "http://localhost:", "http://[::1]:"];
    url.starts_with("https://") || local.iter().any(|prefix| url.starts_with(prefix))
}

/// Copies, telling a failure to read (the network's) from one to write (the disk's).
fn copy(reader: &mut dyn Read, out: &mut dyn Write, url: &str) -> Result<(), SourceError> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = reader.read(&mut buffer).map_err(|error| {
            SourceError::fetch(url, format!("the download broke off: {error}"), "try again")
        })?;
        if read == 0 {
            return Ok(());
        }
        (out.write_all(&buffer[..read]))
            .map_err(SourceError::io("write", Path::new("the cache")))?;
    }
}

fn named(error: SourceError, url: &str) -> SourceError {
    match error {
        SourceError::Digest {
            found, expected, ..
        } => SourceError::Digest {
            what: url.to_string(),
            found,
            expected,
        },
        other => other,
    }
}

fn progress(name: &str, size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{msg} {spinner} {bytes} {bytes_per_sec}",
        ),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(format!("fetching {name}"))
}

#[cfg(test)]
mod tests {
    use super::super::test_server::TestServer;
    use super::*;

    fn source(url: String, contents: &[u8]) -> Https {
        let sha256 = Sha256::of(contents);
        Https { url, sha256 }
    }

    #[test]
    fn fetches_once_and_verifies() {
        let server = TestServer::start(&[("/a/model.gguf", b"GGUF contents")]);
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path().to_path_buf());
        let url = format!("{}/a/model.gguf?download=true", server.url());
        let good = source(url.clone(), b"GGUF contents");
        let path = good.fetch(&cache).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"GGUF contents");
        assert!(path.ends_with("model.gguf"));
        good.fetch(&cache).unwrap();
        assert_eq!(server.requests(), 1);

        let error = source(url.clone(), b"other")
            .fetch(&cache)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("{url} has another digest")),
            "{error}"
        );
        assert!(error.contains(Sha256::of(b"other").as_str()), "{error}");
    }

    #[test]
    fn failures_are_told() {
        let server = TestServer::start(&[]);
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path().to_path_buf());
        let fetch = |url: String| source(url, b"x").fetch(&cache).unwrap_err().to_string();
        assert!(fetch(format!("{}/none", server.url())).contains("there is no such file"));
        assert!(fetch("http://127.0.0.1:1/x".into()).contains("hint: is the network there?"));
        assert!(fetch("http://example.org/x".into()).contains("not an https address"));
    }
}
