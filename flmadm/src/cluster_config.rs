//! `conf/flame-cluster.yaml`: made for a new installation, checked and kept in an existing one.

use flame_core::config::{ClusterConfig, Endpoint};

use crate::failure::{Failure, Outcome};
use crate::prefix::Prefix;

/// Endpoint of a cluster on one machine.
pub(crate) const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8080";

/// What becomes of the configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The file is there and good.
    Keep,
    /// There is no file yet.
    Create(String),
    /// There is another file, and the user wants it replaced; it is kept beside as `.bak`.
    Replace(String),
}

/// Decides about the file at `prefix`. It is never changed in place; a broken one is an error
/// unless `force` says to replace it. Without an `endpoint`, a new file has the one that `otherwise` says.
///
/// # Errors
/// The endpoint is none, or the existing file is broken or contradicts the endpoint.
pub(crate) fn decide(
    prefix: &Prefix,
    endpoint: Option<&str>,
    otherwise: &str,
    force: bool,
) -> Outcome<Decision> {
    let path = prefix.config();
    let wanted = endpoint
        .map(str::parse::<Endpoint>)
        .transpose()
        .map_err(|error| Failure::arguments("--endpoint cannot be used").because(error))?;
    let text = text(prefix, endpoint.unwrap_or(otherwise))?;
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Decision::Create(text)),
        Err(error) => return Err(Failure::path("read", &path, error)),
        Ok(existing) if existing == text => return Ok(Decision::Keep),
        Ok(_) => {}
    }
    let existing = ClusterConfig::load(&path);
    if force {
        // Nothing to gain from replacing a good file that says what is asked for.
        return Ok(match (&existing, &wanted) {
            (Ok(config), Some(wanted)) if config.endpoint == *wanted => Decision::Keep,
            (Ok(_), None) => Decision::Keep,
            _ => Decision::Replace(text),
        });
    }
    let hint = "mend it, or use --force to replace it (the old one is kept as .bak)";
    let config = existing.map_err(|error| {
        Failure::installation("the existing configuration is broken")
            .because(error)
            .hint(hint)
    })?;
    match wanted {
        Some(wanted) if wanted != config.endpoint => Err(Failure::arguments(format!(
            "--endpoint is {wanted}, but the existing {} says {}",
            path.display(),
            config.endpoint
        ))
        .hint(hint)),
        _ => Ok(Decision::Keep),
    }
}

fn text(prefix: &Prefix, endpoint: &str) -> Outcome<String> {
    // The prefix is checked to be plain; the endpoint is quoted as JSON, which YAML reads as it is.
    let endpoint = serde_json::Value::from(endpoint);
    let text = format!(
        "# Configuration of Flame's services on this machine, read when they start.\n\
         cluster:\n\
         \x20 name: flame\n\
         \x20 # Where the session manager is reached; node agents use the next port.\n\
         \x20 endpoint: {endpoint}\n\
         \x20 # Where the session manager keeps its state: sqlite://PATH, or none for memory.\n\
         \x20 storage: \"sqlite://{}/data/flame.db\"\n\
         \x20 policies: [priority, drf]\n",
        prefix.text()
    );
    ClusterConfig::parse(&text).map_err(|error| {
        Failure::arguments("no configuration can be made for this --endpoint")
            .because(error)
            .hint(format!(
                "write {} yourself before the installation; it is kept as it is",
                prefix.config().display()
            ))
    })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flame_core::config::cluster::Storage;

    fn prefix(directory: &tempfile::TempDir) -> Prefix {
        std::fs::create_dir_all(directory.path().join("flame/conf")).expect("made");
        Prefix::new(&directory.path().join("flame")).expect("a prefix")
    }

    #[test]
    fn a_new_configuration_is_valid() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let prefix = prefix(&directory);
        let Decision::Create(text) = decide(&prefix, None, DEFAULT_ENDPOINT, false).expect("decided") else {
            panic!("not created")
        };
        let config = ClusterConfig::parse(&text).expect("valid");
        assert_eq!(config.endpoint.url(), DEFAULT_ENDPOINT);
        assert_eq!(config.storage, Storage::Sqlite(prefix.join("data/flame.db")));
        let Decision::Create(text) =
            decide(&prefix, Some("http://manager:9000"), DEFAULT_ENDPOINT, false).expect("decided")
        else {
            panic!("not created")
        };
        assert_eq!(
            ClusterConfig::parse(&text).expect("valid").endpoint.url(),
            "http://manager:9000"
        );
    }

    #[test]
    fn an_endpoint_that_is_none_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let prefix = prefix(&directory);
        for endpoint in [
            "8080",
            "http://",
            "ftp://x",
            "http://x:65535",
            "https://x",
            "http://x\"\n  storage: none",
        ] {
            assert!(
                decide(&prefix, Some(endpoint), DEFAULT_ENDPOINT, false).is_err(),
                "{endpoint}"
            );
        }
    }

    #[test]
    fn an_existing_file_is_kept_checked_or_replaced_on_demand() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let prefix = prefix(&directory);
        let good = "cluster:\n  name: mine\n  endpoint: http://127.0.0.1:9000\n";
        for (existing, endpoint, plain, forced) in [
            (good, None, Some(true), true),
            (good, Some("http://127.0.0.1:9000"), Some(true), true),
            (good, Some("http://127.0.0.1:9001"), None, false),
            ("cluster: [", None, None, false),
            ("cluster:\n  nam: x\n", None, None, false),
        ] {
            std::fs::write(prefix.config(), existing).expect("written");
            let kept = decide(&prefix, endpoint, DEFAULT_ENDPOINT, false)
                .ok()
                .map(|decision| decision == Decision::Keep);
            assert_eq!(kept, plain, "{existing} {endpoint:?}");
            let kept = decide(&prefix, endpoint, DEFAULT_ENDPOINT, true).expect("forced") == Decision::Keep;
            assert_eq!(kept, forced, "{existing} {endpoint:?} --force");
        }
    }
}
