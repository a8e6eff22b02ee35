//! `hf:org/name`: models and data of the Hugging Face hub, in the cache that its own tools share.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache as HubCache, Repo, RepoType};

use super::cache::lock;
use super::error::SourceError;
use super::sha256::Sha256;

/// `hf:[datasets/]org/name[/path/in/it][@revision]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HuggingFace {
    pub is_data: bool,
    pub repo: String,
    /// One file of it; the whole model when left out.
    pub file: Option<String>,
    pub revision: String,
}

/// The hub, its cache on this machine and who asks.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    pub endpoint: Option<String>,
    pub cache: Option<PathBuf>,
    pub token: Option<String>,
}

impl Hub {
    /// As Hugging Face's own tools are told: HF_ENDPOINT, HF_HUB_CACHE, HF_HOME, HF_TOKEN.
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home =
            set("HF_HOME").or_else(|| set("HOME").map(|home| format!("{home}/.cache/huggingface")));
        Self {
            endpoint: set("HF_ENDPOINT").map(|url| url.trim_end_matches('/').to_string()),
            cache: set("HF_HUB_CACHE")
                .or_else(|| home.map(|home| format!("{home}/hub")))
                .map(PathBuf::from),
            token: set("HF_TOKEN"),
        }
    }

    fn cache(&self) -> Result<HubCache, SourceError> {
        let path = self.cache.clone().ok_or(SourceError::NoCache)?;
        Ok(HubCache::new(path))
    }

    fn api(&self, cache: HubCache) -> Result<Api, ApiError> {
        let mut builder = ApiBuilder::from_cache(cache).with_retries(3);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        if let Some(token) = &self.token {
            builder = builder.with_token(Some(token.clone()));
        }
        builder.build()
    }
}

/// What a model's directory holds besides its weights; the first is indispensable.
const MODEL_FILES: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl HuggingFace {
    /// What was fetched before, if it is complete.
    pub fn kept(&self, hub: &Hub) -> Option<PathBuf> {
        self.cached(&hub.cache().ok()?)
    }

    pub fn fetch(&self, hub: &Hub) -> Result<PathBuf, SourceError> {
        let cache = hub.cache()?;
        let kept = cache.repo(self.repo_at(&self.revision));
        if is_commit(&self.revision)
            && let Some(path) = self.cached(&cache)
        {
            return Ok(path);
        }
        std::fs::create_dir_all(cache.path()).map_err(SourceError::io("create", cache.path()))?;
        let lock_name = format!(".distill-{}.lock", self.repo_at("main").folder_name());
        let _lock = lock(&cache.path().join(lock_name))?;

        let failed = |error: ApiError| self.explain(error);
        let api = hub.api(cache.clone()).map_err(failed)?;
        let info = match api.repo(self.repo_at(&self.revision)).info() {
            Ok(info) => info,
            Err(error) => {
                // Without the network, what was fetched before serves.
                let usable = is_unreachable(&error)
                    .then(|| self.cached(&cache))
                    .flatten();
                return usable
                    .inspect(|_| tracing::warn!("the hub cannot be reached: using what is cached"))
                    .ok_or_else(|| self.explain(error));
            }
        };
        // Everything comes from one commit, also while somebody pushes.
        let pinned = Pinned {
            source: self,
            api: api.repo(self.repo_at(&info.sha)),
            cached: cache.repo(self.repo_at(&info.sha)),
        };
        let published: BTreeSet<&str> = (info.siblings.iter())
            .map(|sibling| sibling.rfilename.as_str())
            .collect();
        let path = match &self.file {
            Some(file) => pinned.get(file)?,
            None => pinned.model(&published)?,
        };
        (kept.create_ref(&info.sha)).map_err(SourceError::io("write in", cache.path()))?;
        Ok(path)
    }

    fn repo_at(&self, revision: &str) -> Repo {
        let kind = match self.is_data {
            true => RepoType::Dataset,
            false => RepoType::Model,
        };
        Repo::with_revision(self.repo.clone(), kind, revision.to_string())
    }

    /// What is in the cache, if it is complete.
    fn cached(&self, cache: &HubCache) -> Option<PathBuf> {
        let kept = cache.repo(self.repo_at(&self.revision));
        if let Some(file) = &self.file {
            return kept.get(file);
        }
        let directory = kept.get(MODEL_FILES[0])?.parent()?.to_path_buf();
        let complete = match kept.get(INDEX) {
            Some(index) => {
                shards(&index).is_ok_and(|all| all.iter().all(|shard| kept.get(shard).is_some()))
            }
            None => kept.get(SINGLE).is_some(),
        };
        complete.then_some(directory)
    }

    fn explain(&self, error: ApiError) -> SourceError {
        let status = match &error {
            ApiError::RequestError(request) => match request.as_ref() {
                ureq::Error::Status(code, _) => Some(*code),
                ureq::Error::Transport(_) => None,
            },
            _ => None,
        };
        let (reason, hint) = match status {
            Some(401 | 403) => (
                "the hub refuses access, or does not know it".to_string(),
                "check the name; if it is gated, accept its terms and set HF_TOKEN",
            ),
            Some(404) => (
                "the hub does not know it".to_string(),
                "check the name, the path and the revision",
            ),
            Some(code) => (format!("the hub answered {code}"), "try again later"),
            None => (
                error.to_string(),
                "is the network there? HF_ENDPOINT names another hub",
            ),
        };
        SourceError::fetch(self, reason, hint)
    }
}

/// One commit of a repository.
struct Pinned<'a> {
    source: &'a HuggingFace,
    api: hf_hub::api::sync::ApiRepo,
    cached: hf_hub::CacheRepo,
}

impl Pinned<'_> {
    fn get(&self, file: &str) -> Result<PathBuf, SourceError> {
        if let Some(path) = self.cached.get(file) {
            return Ok(path);
        }
        let path = (self.api.download(file)).map_err(|error| self.source.explain(error))?;
        verify(&path, &format!("{} {file}", self.source))?;
        Ok(path)
    }

    /// Fetches the configuration, the tokenizer and the weights, and returns their directory.
    fn model(&self, published: &BTreeSet<&str>) -> Result<PathBuf, SourceError> {
        let unusable = |reason: String, hint: String| SourceError::fetch(self.source, reason, hint);
        let weights = if published.contains(INDEX) {
            let index = self.get(INDEX)?;
            shards(&index)
                .map_err(|reason| unusable(reason, "its publisher has to repair it".to_string()))?
        } else if published.contains(SINGLE) {
            BTreeSet::from([SINGLE.to_string()])
        } else {
            let gguf: Vec<&str> = (published.iter().filter(|name| name.ends_with(".gguf")))
                .copied()
                .collect();
            let hint = match gguf.first() {
                Some(file) => format!(
                    "it has GGUF files: name one, as hf:{}/{file}",
                    self.source.repo
                ),
                None => "look for a repository with model.safetensors or a .gguf file".to_string(),
            };
            return Err(unusable("it has no safetensors weights".to_string(), hint));
        };
        let config = self.get(MODEL_FILES[0])?;
        for file in &MODEL_FILES[1..] {
            if published.contains(file) {
                self.get(file)?;
            }
        }
        for shard in &weights {
            self.get(shard)?;
        }
        let directory = config.parent().unwrap_or(&config);
        Ok(directory.to_path_buf())
    }
}

/// The files that an index of shards names. It comes from outside: only plain names are taken.
fn shards(index: &Path) -> Result<BTreeSet<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let bytes = std::fs::read(index).map_err(|error| error.to_string())?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| format!("{INDEX} is not an index of shards: {error}"))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    match names
        .iter()
        .find(|name| name.contains(['/', '\\']) || !name.ends_with(".safetensors"))
    {
        Some(name) => Err(format!("{INDEX} names a strange file, {name:?}")),
        None => Ok(names),
    }
}

/// Large files are stored under their sha256: what was fetched must have it.
fn verify(path: &Path, what: &str) -> Result<(), SourceError> {
    let blob = std::fs::canonicalize(path).map_err(SourceError::io("read", path))?;
    let name = blob
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let Ok(expected) = Sha256::try_from(name) else {
        return Ok(());
    };
    let file = std::fs::File::open(&blob).map_err(SourceError::io("read", path))?;
    let found = Sha256::of_reader(file).map_err(SourceError::io("read", path))?;
    if found == expected {
        return Ok(());
    }
    for file in [path, &blob] {
        std::fs::remove_file(file).map_err(SourceError::io("remove", file))?;
    }
    Err(SourceError::Digest {
        what: what.to_string(),
        found: found.to_string(),
        expected: expected.to_string(),
    })
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_unreachable(error: &ApiError) -> bool {
    matches!(error, ApiError::RequestError(request)
        if matches!(request.as_ref(), ureq::Error::Transport(_)))
}

impl FromStr for HuggingFace {
    type Err = SourceError;

    /// Takes what follows `hf:`.
    fn from_str(text: &str) -> Result<Self, SourceError> {
        let wrong = || {
            SourceError::Syntax(format!(
                "`hf:{text}` names nothing on the hub\n\
                 hint: write hf:org/name, hf:org/name/file.gguf or hf:datasets/org/name/file.parquet, \
                 and @revision at the end if wanted"
            ))
        };
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (is_data, path) = match path.strip_prefix("datasets/") {
            Some(rest) => (true, rest),
            None => (false, path),
        };
        let steps: Vec<&str> = path.split('/').collect();
        let plain = |step: &&str| !step.is_empty() && *step != "." && *step != "..";
        if steps.len() < 2 || !steps.iter().all(plain) || revision.is_empty() {
            return Err(wrong());
        }
        let file = (steps.len() > 2).then(|| steps[2..].join("/"));
        if is_data && file.is_none() {
            return Err(wrong());
        }
        Ok(Self {
            is_data,
            repo: steps[..2].join("/"),
            file,
            revision: revision.to_string(),
        })
    }
}

impl fmt::Display for HuggingFace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_data { "datasets/" } else { "" };
        write!(f, "hf:{kind}{}", self.repo)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
