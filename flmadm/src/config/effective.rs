//! Settings as they are in effect, with the place where each is said.

use std::time::Duration;

use flame_core::config::cluster::{Placement, Policy, Storage, StorageSync};
use flame_core::config::node::{Key, Origin};
use flame_core::config::{ClusterConfig, NodeConfig};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::file::{self, Which};
use super::{tree, yaml};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::installed::Installed;

/// A setting that is in effect.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Setting {
    /// With its parents, as cluster.endpoint.
    pub(crate) key: String,
    /// Its value; null if there is no bound, or if the service finds it out when it starts.
    pub(crate) value: Value,
    /// Where it is said: a line of the file, a variable of the unit, default, or detected.
    pub(crate) from: String,
}

/// The settings of a file, with those that it does not say.
///
/// # Errors
/// It cannot be read, or services could not use it.
pub(super) fn settings(host: &dyn Host, installed: &Installed, which: &Which) -> Outcome<Vec<Setting>> {
    let text = which.text(installed)?;
    match which {
        Which::Cluster => cluster(installed, &text),
        Which::Agent(agent) => node(host, installed, agent.as_deref(), &text),
    }
}

fn unusable(problems: &[String]) -> Failure {
    Failure::installation(format!(
        "services could not use the settings:\n  {}",
        problems.join("\n  ")
    ))
    .hint("mend them, with flmadm config set or an editor")
}

fn cluster(installed: &Installed, text: &str) -> Outcome<Vec<Setting>> {
    let which = Which::Cluster;
    let config =
        ClusterConfig::parse(text).map_err(|_| unusable(&which.problems(text, &which.path(installed))))?;
    let said = yaml::parse(text).unwrap_or_default();
    let mut settings = Vec::new();
    for key in ClusterConfig::keys() {
        let said = tree::get(&said, key).filter(|value| !value.is_null());
        let from = match said {
            Some(_) => match yaml::line(text, key) {
                Some(line) => format!("{which}, line {line}"),
                None => which.to_string(),
            },
            None => "default".to_owned(),
        };
        // What is taken for compatibility has no effect; it is shown as it was said.
        if let Some(value) = of_cluster(&config, key).or_else(|| said.cloned()) {
            settings.push(Setting {
                key: key.to_owned(),
                value,
                from,
            });
        }
    }
    Ok(settings)
}

/// The value in effect; `None` for what has none.
fn of_cluster(config: &ClusterConfig, key: &str) -> Option<Value> {
    let tls = config.tls.as_ref();
    let cache = config.cache.as_ref();
    Some(match key {
        "cluster.name" => json!(config.name),
        "cluster.endpoint" => json!(config.endpoint.url()),
        "cluster.listen" => json!(config.listen.as_ref().unwrap_or(&config.endpoint.host)),
        "cluster.resreq" => json!(config.default_resources.to_string()),
        "cluster.placement" => json!(match config.placement {
            Placement::Pack => "pack",
            Placement::Spread => "spread",
        }),
        "cluster.policies" => config
            .policies
            .iter()
            .map(|policy| policy_name(*policy))
            .collect(),
        "cluster.storage" => json!(match &config.storage {
            Storage::Sqlite(path) => format!("sqlite://{}", path.display()),
            Storage::None => "none".to_owned(),
        }),
        "cluster.storage_sync" => json!(match config.storage_sync {
            StorageSync::Full => "full",
            StorageSync::Normal => "normal",
        }),
        "cluster.executors.shim" => json!("host"),
        "cluster.limits.max_sessions" => json!(config.limits.max_sessions),
        "cluster.limits.max_executors" => json!(config.limits.max_executors),
        "cluster.limits.max_message_size" => json!(config.limits.max_message_size),
        "cluster.retention.max_age" => json!(config.retention.max_age.map(seconds)),
        "cluster.retention.max_size" => json!(config.retention.max_size),
        "cluster.recovery.session.retry_limits" => json!(config.bind_retries),
        "cluster.recovery.task.max_retries" => json!(config.task_retries),
        "cluster.metrics.listen" => match config.metrics {
            Some(address) => json!(address),
            None => json!("none"),
        },
        "cluster.tls.cert_file" => json!(tls?.cert_file),
        "cluster.tls.key_file" => json!(tls?.key_file),
        "cluster.tls.ca_file" => json!(tls?.ca_file),
        "cache.endpoint" => json!(cache?.endpoint_text),
        "cache.network_interface" => json!(cache?.network_interface),
        "cache.storage" => json!(cache?.storage),
        "cache.eviction.policy" => json!(cache?.eviction_policy),
        "cache.eviction.max_memory" => json!(cache?.max_memory),
        "cache.eviction.max_objects" => json!(cache?.max_objects),
        "cache.tls.cert_file" => json!(cache?.tls.as_ref()?.cert_file),
        "cache.tls.key_file" => json!(cache?.tls.as_ref()?.key_file),
        "cache.tls.ca_file" => json!(cache?.tls.as_ref()?.ca_file),
        _ => return None,
    })
}

fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Priority => "priority",
        Policy::Drf => "drf",
    }
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

fn node(host: &dyn Host, installed: &Installed, agent: Option<&str>, text: &str) -> Outcome<Vec<Setting>> {
    let which = Which::Agent(agent.map(str::to_owned));
    let path = which.path(installed);
    let mut said = file::said(text, &path).map_err(|problems| unusable(&problems))?;
    let variables = variables(host, installed, agent);
    said.environment(|name| {
        let mut found = variables.iter().filter_map(|variable| variable.split_once('='));
        found
            .find(|(variable, _)| *variable == name)
            .map(|(_, value)| value.to_owned())
    });
    let config = said.check().map_err(|problems| {
        let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
        unusable(&words)
    })?;
    let setting = |key: &Key| Setting {
        key: key.name().to_owned(),
        value: json!(config.value(*key)),
        from: match said.get(*key).map(|setting| &setting.origin) {
            Some(Origin::File { line, .. }) => format!("{which}, line {line}"),
            Some(Origin::Variable(name)) => format!("{name} of the unit"),
            Some(Origin::Flag(name)) => format!("{name} of the unit"),
            None if NodeConfig::is_detected(*key) => "detected".to_owned(),
            None => "default".to_owned(),
        },
    };
    Ok(Key::ALL.iter().map(setting).collect())
}

/// What the unit of the agent sets, which is above the file; nothing if there is no unit or systemd does not answer.
pub(super) fn variables(host: &dyn Host, installed: &Installed, agent: Option<&str>) -> Vec<String> {
    let unit = match agent {
        Some(agent) => installed.further_agent(agent),
        None => installed.node_agent(),
    };
    let asked = installed
        .systemd(host)
        .and_then(|systemd| systemd.environment(&unit));
    asked.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Taken for compatibility, without effect.
    const IGNORED: [&str; 3] = [
        "cluster.schedule_interval",
        "cluster.pprof.port",
        "cache.pprof.port",
    ];

    #[test]
    fn every_setting_of_a_cluster_is_known() {
        let config = ClusterConfig::parse(
            "cluster: {name: a, endpoint: \"https://a:1\", tls: {cert_file: /c, key_file: /k}}\n\
             cache: {endpoint: \"grpcs://a:2\", tls: {cert_file: /c, key_file: /k}}\n",
        )
        .expect("valid");
        for key in ClusterConfig::keys() {
            assert_eq!(
                of_cluster(&config, key).is_none(),
                IGNORED.contains(&key),
                "{key}"
            );
        }
    }
}
