//! How `up` gets an installation to start: one that is there, a new one, or one with another address.

use std::path::PathBuf;

use clap::Parser;
use flame_core::config::{ClusterConfig, Endpoint};
use flame_core::fsutil::write_atomic;

use super::cluster::{Cluster, SESSION_MANAGER};
use super::up::UpArgs;
use crate::cli::{Cli, Command};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::install;
use crate::output::Output;
use crate::ports::free_endpoint;

/// Installs if there is need, and gives the configuration.
///
/// # Errors
/// It cannot be installed, or what is installed cannot be used.
pub(super) fn installed(
    host: &dyn Host,
    cluster: &Cluster,
    args: &UpArgs,
    output: &mut Output<'_>,
) -> Outcome<ClusterConfig> {
    let before = cluster.config()?;
    if args.no_install {
        return match (before, &args.endpoint) {
            (None, _) => Err(nothing_installed(cluster)),
            (Some(config), Some(wanted)) if config.endpoint != *wanted => Err(Failure::arguments(format!(
                "{} is installed for {}, not {wanted}",
                cluster.path().display(),
                config.endpoint
            ))
            .hint("without --no-install its address is changed")),
            (Some(config), _) => Ok(config),
        };
    }
    let update = args.bin_dir.is_some() || args.skip_build || args.src_dir.is_some();
    if let Some(config) = &before
        && let Some(wanted) = args
            .endpoint
            .as_ref()
            .filter(|wanted| **wanted != config.endpoint)
    {
        move_to(cluster, wanted)?;
        output.progress(&format!(
            "changed the endpoint from {} to {wanted}",
            config.endpoint
        ));
    }
    if before.is_none() || update {
        let endpoint = match (&before, &args.endpoint) {
            (Some(_), _) => None,
            (None, Some(endpoint)) => Some(endpoint.url()),
            (None, None) => Some(free_endpoint(host, &cluster.prefix)?),
        };
        install_into(host, cluster, args, endpoint, output)?;
    }
    cluster.config()?.ok_or_else(|| nothing_installed(cluster))
}

/// There is no cluster to start.
pub(super) fn nothing_installed(cluster: &Cluster) -> Failure {
    Failure::installation(format!("nothing is installed in {}", cluster.path().display()))
        .hint("flmadm dev up installs it; --prefix names another directory")
}

fn install_into(
    host: &dyn Host,
    cluster: &Cluster,
    args: &UpArgs,
    endpoint: Option<String>,
    output: &mut Output<'_>,
) -> Outcome<()> {
    // The same words as on the command line, so that what install learns holds here, too.
    let mut words: Vec<std::ffi::OsString> = ["flmadm", "install", "--all", "--no-systemd", "--prefix"]
        .map(Into::into)
        .to_vec();
    words.push(cluster.path().into());
    let mut option = |name: &str, value: Option<std::ffi::OsString>| {
        words.push(name.into());
        words.extend(value);
    };
    if let Some(endpoint) = endpoint {
        option("--endpoint", Some(endpoint.into()));
    }
    if let Some(directory) = &args.src_dir {
        option("--src-dir", Some(directory.into()));
    }
    if args.skip_build {
        option("--skip-build", None);
    }
    let beside = || std::env::current_exe().ok()?.parent().map(PathBuf::from);
    let complete = |directory: &PathBuf| directory.join(SESSION_MANAGER).is_file();
    let built = match (&args.bin_dir, args.skip_build || args.src_dir.is_some()) {
        (Some(directory), _) => Some(directory.clone()),
        (None, true) => None,
        (None, false) => beside().filter(complete),
    };
    if let Some(directory) = built {
        option("--bin-dir", Some(directory.into()));
    }
    let cli = Cli::try_parse_from(words)
        .map_err(|error| Failure::arguments("install cannot be asked").because(error))?;
    let Command::Install(install_args) = cli.command else {
        return Err(Failure::arguments("install cannot be asked"));
    };
    let mut said = Vec::new();
    install::run(
        host,
        &install_args,
        &mut Output::new(install_args.output, &mut said),
    )?;
    output.line(String::from_utf8_lossy(&said).trim_end());
    Ok(())
}

/// Changes the endpoint in the configuration, and nothing else in it.
fn move_to(cluster: &Cluster, wanted: &Endpoint) -> Outcome<()> {
    let path = cluster.prefix.config();
    let text = std::fs::read_to_string(&path).map_err(|error| Failure::path("read", &path, error))?;
    let changed = with_endpoint(&text, wanted).ok_or_else(|| {
        Failure::arguments(format!("the endpoint in {} cannot be changed", path.display()))
            .hint("write it there yourself, then start without --endpoint")
    })?;
    Ok(write_atomic(&path, changed.as_bytes(), 0o644)?)
}

/// `text` with the line that says `endpoint:` first saying something else, if that is all it takes.
fn with_endpoint(text: &str, wanted: &Endpoint) -> Option<String> {
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("endpoint:"))?;
    let indent = &line[..line.len() - line.trim_start().len()];
    let changed = text.replacen(line, &format!("{indent}endpoint: \"{wanted}\""), 1);
    let before = ClusterConfig::parse(text).ok()?;
    let after = ClusterConfig::parse(&changed).ok()?;
    let only = ClusterConfig {
        endpoint: wanted.clone(),
        metrics: after.metrics,
        ..before
    };
    (after == only).then_some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_endpoint_is_changed() {
        let wanted: Endpoint = "http://127.0.0.1:9000".parse().expect("an endpoint");
        let text =
            "# mine\ncluster:\n  name: a\n  endpoint: http://127.0.0.1:8080 # here\n  policies: [drf]\n";
        assert_eq!(
            with_endpoint(text, &wanted).as_deref(),
            Some("# mine\ncluster:\n  name: a\n  endpoint: \"http://127.0.0.1:9000\"\n  policies: [drf]\n")
        );
        for odd in [
            "cache:\n  endpoint: grpc://127.0.0.1:9090\ncluster:\n  name: a\n  endpoint: http://127.0.0.1:8080\n",
            "cluster: {name: a, endpoint: \"http://127.0.0.1:8080\"}\n",
        ] {
            assert_eq!(with_endpoint(odd, &wanted), None, "{odd}");
        }
    }
}
