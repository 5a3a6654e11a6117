//! `flame.yaml`: the configuration of the clients. None is needed: environment variables and
//! defaults are enough.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, Endpoint};

/// Where the object cache of this machine answers by default.
pub const DEFAULT_CACHE_ENDPOINT: &str = "grpc://127.0.0.1:9090";

const KEYS: &[&str] = &[
    "current-context",
    "contexts",
    "contexts.*.name",
    "contexts.*.cluster",
    "contexts.*.cluster.endpoint",
    "contexts.*.cluster.tls",
    "contexts.*.cluster.tls.ca_file",
    "contexts.*.cache",
    "contexts.*.cache.endpoint",
    "contexts.*.cache.tls",
    "contexts.*.cache.tls.ca_file",
    "contexts.*.cache.storage",
    "contexts.*.package",
    "contexts.*.package.storage",
    "contexts.*.package.excludes",
    "contexts.*.runner",
    "contexts.*.runner.template",
];

/// What a client needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// The session manager's Frontend.
    pub endpoint: Endpoint,
    /// PEM certificate of the authority to trust, if not the system's.
    pub ca_file: Option<PathBuf>,
    /// The object cache, as it was written.
    pub cache_endpoint: String,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::local_default(),
            ca_file: None,
            cache_endpoint: DEFAULT_CACHE_ENDPOINT.to_owned(),
        }
    }
}

impl ClientConfig {
    /// Reads `path`, or `~/.flame/flame.yaml` if that exists, or takes the defaults; then
    /// `FLAME_ENDPOINT`, `FLAME_CACHE_ENDPOINT` and `FLAME_CA_FILE` override what was read.
    ///
    /// # Errors
    /// [`ConfigError`] if `path` cannot be read, or if any value is wrong.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_for(path, None)
    }

    /// As [`ClientConfig::load`], for a command line: `endpoint`, if there is one, is above both, and
    /// `FLAME_ENDPOINT` is then not looked at.
    ///
    /// # Errors
    /// As [`ClientConfig::load`].
    pub fn load_for(path: Option<&Path>, endpoint: Option<Endpoint>) -> Result<Self, ConfigError> {
        let default_path = std::env::home_dir().map(|home| home.join(".flame/flame.yaml"));
        let base = match (path, default_path) {
            (Some(path), _) => super::load(path, Self::parse)?,
            (None, Some(path)) if path.exists() => super::load(&path, Self::parse)?,
            (None, _) => Self::default(),
        };
        base.overridden(endpoint, |name| {
            std::env::var(name).ok().filter(|value| !value.is_empty())
        })
    }

    /// Reads the text of such a file: its current context.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: RawFile = super::from_yaml(text, KEYS)?;
        let names: Vec<&str> = raw.contexts.iter().map(|context| context.name.as_str()).collect();
        let Some(context) = raw
            .contexts
            .iter()
            .find(|context| context.name == raw.current_context)
        else {
            let reason = format!(
                "there is no context {:?}; there are: {}",
                raw.current_context,
                names.join(", ")
            );
            return Err(ConfigError::value("current-context", reason));
        };
        let mut config = Self::default();
        if let Some(cluster) = &context.cluster {
            if let Some(endpoint) = &cluster.endpoint {
                config.endpoint = parse_endpoint("contexts.*.cluster.endpoint", endpoint)?;
            }
            config.ca_file = cluster.tls.as_ref().and_then(|tls| tls.ca_file.clone());
        }
        if let Some(endpoint) = context.cache.as_ref().and_then(|cache| cache.endpoint.as_ref()) {
            parse_endpoint("contexts.*.cache.endpoint", endpoint)?;
            config.cache_endpoint.clone_from(endpoint);
        }
        Ok(config)
    }

    fn overridden(
        mut self,
        endpoint: Option<Endpoint>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        if let Some(endpoint) = endpoint {
            self.endpoint = endpoint;
        } else if let Some(endpoint) = env("FLAME_ENDPOINT") {
            self.endpoint = parse_endpoint("FLAME_ENDPOINT", &endpoint)?;
        }
        if let Some(endpoint) = env("FLAME_CACHE_ENDPOINT") {
            parse_endpoint("FLAME_CACHE_ENDPOINT", &endpoint)?;
            self.cache_endpoint = endpoint;
        }
        if let Some(file) = env("FLAME_CA_FILE") {
            self.ca_file = Some(PathBuf::from(file));
        }
        Ok(self)
    }
}

fn parse_endpoint(key: &str, text: &str) -> Result<Endpoint, ConfigError> {
    text.parse().map_err(|error| ConfigError::value(key, error))
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(rename = "current-context")]
    current_context: String,
    #[serde(default)]
    contexts: Vec<RawContext>,
}

#[derive(Deserialize)]
struct RawContext {
    name: String,
    cluster: Option<RawService>,
    cache: Option<RawCache>,
    /// Read by the Python SDK.
    #[serde(rename = "package")]
    _package: Option<RawPackage>,
    /// Read by the Python SDK.
    #[serde(rename = "runner")]
    _runner: Option<RawRunner>,
}

#[derive(Deserialize)]
struct RawService {
    endpoint: Option<String>,
    tls: Option<RawTls>,
}

#[derive(Deserialize)]
struct RawCache {
    endpoint: Option<String>,
    #[serde(rename = "tls")]
    _tls: Option<RawTls>,
    #[serde(rename = "storage")]
    _storage: Option<String>,
}

#[derive(Deserialize)]
struct RawTls {
    ca_file: Option<PathBuf>,
}

#[derive(Deserialize)]
struct RawPackage {
    #[serde(rename = "storage")]
    _storage: Option<String>,
    #[serde(rename = "excludes")]
    _excludes: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawRunner {
    #[serde(rename = "template")]
    _template: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
current-context: lab
contexts:
  - name: other
    cluster: {endpoint: "http://other:1"}
  - name: lab
    cluster: {endpoint: "https://lab:2", tls: {ca_file: /ca.pem}}
    cache: {endpoint: "grpcs://lab:3", tls: {ca_file: /ca.pem}, storage: /tmp}
    package: {storage: "file:///p", excludes: ["*.log"]}
    runner: {template: flmrun}
"#;

    #[test]
    fn the_current_context_counts_and_the_environment_overrides_it() {
        let config = ClientConfig::parse(FILE).expect("valid");
        assert_eq!(config.endpoint.url(), "https://lab:2");
        assert_eq!(config.ca_file, Some("/ca.pem".into()));
        assert_eq!(config.cache_endpoint, "grpcs://lab:3");
        let env = |name: &str| (name == "FLAME_ENDPOINT").then(|| "http://env:4".to_owned());
        let config = config.overridden(None, env).expect("valid");
        assert_eq!(config.endpoint.url(), "http://env:4");
        assert_eq!(config.cache_endpoint, "grpcs://lab:3");
    }

    #[test]
    fn no_file_is_needed() {
        let config = ClientConfig::default()
            .overridden(None, |_| None)
            .expect("defaults");
        assert_eq!(config.endpoint.url(), "http://127.0.0.1:8080");
        assert_eq!(config.cache_endpoint, "grpc://127.0.0.1:9090");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            (
                "current-context: x\ncontexts: [{name: a}, {name: b}]",
                "current-context: there is no context \"x\"; there are: a, b",
            ),
            (
                "current-context: a\ncontexts: [{name: a, clutser: {}}]",
                "unknown key \"contexts.0.clutser\"; did you mean \"contexts.*.cluster\"?",
            ),
        ] {
            assert_eq!(ClientConfig::parse(text).expect_err(text).to_string(), message);
        }
        let env = |name: &str| (name == "FLAME_ENDPOINT").then(|| "localhost".to_owned());
        let error = ClientConfig::default()
            .overridden(None, env)
            .expect_err("no scheme")
            .to_string();
        assert!(error.starts_with("FLAME_ENDPOINT: "), "{error}");
    }

    #[test]
    fn an_endpoint_that_is_given_leaves_no_question_to_the_environment() {
        let env = |name: &str| (name == "FLAME_ENDPOINT").then(|| "localhost".to_owned());
        let given = "http://given:5".parse().expect("valid");
        let config = ClientConfig::default().overridden(Some(given), env);
        assert_eq!(config.expect("not looked at").endpoint.url(), "http://given:5");
    }
}
