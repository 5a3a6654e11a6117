//! Configuration files: `flame-cluster.yaml` of the servers and `flame.yaml` of the clients.
//! An unknown key is an error that names the nearest known one, so that a typing error never
//! silently means "the default".

pub mod client;
pub mod cluster;
mod endpoint;
pub mod node;

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use client::ClientConfig;
pub use cluster::ClusterConfig;
pub use endpoint::{DEFAULT_PORT, Endpoint, EndpointError, Scheme};
pub use node::NodeConfig;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is not YAML, or a value has the wrong type.
    #[error("{0}")]
    Syntax(String),
    /// A key that does not exist.
    #[error("unknown key \"{key}\"{hint}")]
    UnknownKey {
        /// The key with its parents, e.g. `cluster.endpiont`.
        key: String,
        /// `; did you mean "cluster.endpoint"?`, or nothing.
        hint: String,
    },
    /// A value that cannot be used.
    #[error("{key}: {reason}")]
    Value {
        /// The key with its parents.
        key: String,
        /// What is wrong and what is wanted.
        reason: String,
    },
    /// Any of the above, in a file.
    #[error("configuration {path}: {error}", path = path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: Box<ConfigError>,
    },
}

impl ConfigError {
    fn value(key: &str, reason: impl ToString) -> Self {
        Self::Value {
            key: key.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Directory of the installation: `FLAME_HOME`, else the default prefix.
#[must_use]
pub fn flame_home() -> PathBuf {
    match std::env::var_os("FLAME_HOME") {
        Some(home) if !home.is_empty() => PathBuf::from(home),
        _ => PathBuf::from(DEFAULT_PREFIX),
    }
}

/// Where Flame is installed unless the administrator says otherwise.
pub const DEFAULT_PREFIX: &str = "/usr/local/flame";

fn load<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    parse(&text).map_err(|error| ConfigError::InFile {
        path: path.to_path_buf(),
        error: Box::new(error),
    })
}

/// Reads YAML into `T`. `known` lists all keys with their parents; elements of a list are `*`.
///
/// # Errors
/// [`ConfigError::Syntax`] or [`ConfigError::UnknownKey`].
pub fn from_yaml<T: DeserializeOwned>(text: &str, known: &[&str]) -> Result<T, ConfigError> {
    let mut unknown = Vec::new();
    let parsed = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()))
    });
    // `?` marks where an Option was entered; numbers are places in lists.
    let readable = |path: &str| {
        path.split('.')
            .filter(|part| *part != "?")
            .collect::<Vec<_>>()
            .join(".")
    };
    if let Some(first) = unknown.first() {
        let key = readable(first);
        return Err(ConfigError::UnknownKey {
            hint: nearest(&key, known),
            key,
        });
    }
    parsed.map_err(|error| ConfigError::Syntax(error.to_string()))
}

/// Similarity (0 to 1) from which on a known key is worth suggesting; found by trying the usual
/// typing errors: swapped, missing and doubled letters stay above it.
const WORTH_SUGGESTING: f64 = 0.6;

/// What to say of a `key` that is none of those that are `known`: the nearest of them, or those beside it.
#[must_use]
pub fn nearest(key: &str, known: &[&str]) -> String {
    let generic: Vec<&str> = key
        .split('.')
        .map(|part| {
            if part.bytes().all(|b| b.is_ascii_digit()) {
                "*"
            } else {
                part
            }
        })
        .collect();
    let generic = generic.join(".");
    let score = |candidate: &str| {
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let names = strsim::normalized_damerau_levenshtein(&last(&generic), &last(candidate));
        // The same parent counts a little, so that of two equal names the nearer one wins.
        names + 0.1 * strsim::normalized_damerau_levenshtein(&generic, candidate)
    };
    let best = known
        .iter()
        .map(|candidate| (score(candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, candidate)) if score >= WORTH_SUGGESTING => format!("; did you mean \"{candidate}\"?"),
        _ => {
            let parent = generic
                .rsplit_once('.')
                .map(|(parent, _)| format!("{parent}."))
                .unwrap_or_default();
            let siblings: Vec<&str> = known
                .iter()
                .filter_map(|k| k.strip_prefix(parent.as_str()))
                .filter(|rest| !rest.contains('.'))
                .collect();
            format!("; known here: {}", siblings.join(", "))
        }
    }
}
