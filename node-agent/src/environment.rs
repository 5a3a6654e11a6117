//! The environment of a service process, as applications rely on it (docs/node-agent.md).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flame_core::config::ClusterConfig;

use crate::expand::expand;

/// What systemd tells the agent alone. A service that inherited it would notify in the agent's
/// name, or take descriptors and directories that are not its own.
const AGENT_ONLY: &[&str] = &[
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
    "SYSTEMD_EXEC_PID",
    "MANAGERPID",
    "MANAGERPIDFDID",
    "MAINPID",
    "FDSTORE",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "CACHE_DIRECTORY",
    "LOGS_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
];

/// Makes Python write what is printed when it is printed, and not when some kilobytes have come together or never,
/// if the process is killed.
const PYTHON_UNBUFFERED: &str = "PYTHONUNBUFFERED";

/// Log level of services unless the agent's RUST_LOG or the application says otherwise.
const DEFAULT_LOG: &str = "info";

/// What all service processes of this agent have in common.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The agent's environment, with FLAME_HOME.
    own: BTreeMap<String, String>,
    /// Variables that say where the cluster is.
    cluster: BTreeMap<String, String>,
}

/// What differs from executor to executor.
#[derive(Debug)]
pub struct Particulars<'a> {
    /// The application's own variables: name and unexpanded value.
    pub application: &'a [(String, String)],
    /// Where the service shall listen.
    pub socket: &'a Path,
    /// Directory for temporary files, if there is one for the application.
    pub temporary: Option<PathBuf>,
    /// The session's id.
    pub session: &'a str,
    /// The executor's id.
    pub executor: &'a str,
}

impl Surroundings {
    /// Of an agent with this environment (`own`), installation directory and configuration.
    #[must_use]
    pub fn new(own: impl Iterator<Item = (String, String)>, home: &Path, config: &ClusterConfig) -> Self {
        let mut own: BTreeMap<String, String> = own.collect();
        own.insert("FLAME_HOME".to_owned(), home.display().to_string());
        let mut cluster = BTreeMap::from([("FLAME_ENDPOINT".to_owned(), config.endpoint.url())]);
        if let Some(ca) = config.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()) {
            cluster.insert("FLAME_CA_FILE".to_owned(), ca.display().to_string());
        }
        if let Some(cache) = &config.cache {
            cluster.insert("FLAME_CACHE_ENDPOINT".to_owned(), cache.endpoint_text.clone());
        }
        Self { own, cluster }
    }

    /// The complete environment of one service process.
    #[must_use]
    pub fn of(&self, particulars: &Particulars<'_>) -> BTreeMap<String, String> {
        let mut child = self.own.clone();
        child.retain(|name, _| !AGENT_ONLY.contains(&name.as_str()));
        let log = self.own.get("RUST_LOG").map_or(DEFAULT_LOG, String::as_str);
        for name in ["RUST_LOG", "FLAME_LOG"] {
            child.insert(name.to_owned(), log.to_owned());
        }
        let agent = |name: &str| self.own.get(name).cloned();
        for (name, value) in particulars.application {
            child.insert(name.clone(), expand(value, agent));
        }
        let unbuffered = child.entry(PYTHON_UNBUFFERED.to_owned());
        unbuffered.or_insert_with(|| "1".to_owned());
        if let Some(directory) = &particulars.temporary {
            for name in ["TMPDIR", "TEMP", "TMP"] {
                child
                    .entry(name.to_owned())
                    .or_insert_with(|| directory.display().to_string());
            }
        }
        child.extend(self.cluster.clone());
        for (name, value) in [
            (
                "FLAME_INSTANCE_ENDPOINT",
                particulars.socket.display().to_string(),
            ),
            ("FLAME_SESSION_ID", particulars.session.to_owned()),
            ("FLAME_EXECUTOR_ID", particulars.executor.to_owned()),
        ] {
            child.insert(name.to_owned(), value);
        }
        child
    }

    /// `text` (a command or an argument) with the variables of `child`, then the agent's own.
    #[must_use]
    pub fn expand_in(&self, child: &BTreeMap<String, String>, text: &str) -> String {
        expand(text, |name| {
            child.get(name).or_else(|| self.own.get(name)).cloned()
        })
    }
}

/// This process's environment. What is not UTF-8 cannot be handed on and is left out.
pub fn of_this_process() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "cluster: {name: c, endpoint: 'https://manager:9000', \
        tls: {cert_file: /c, key_file: /k, ca_file: /ca.pem}}\n\
        cache: {endpoint: 'grpcs://cache:9090', tls: {cert_file: /c, key_file: /k}}\n";
    const PLAIN: &str = "cluster: {name: c, endpoint: 'http://127.0.0.1:8080'}\n";

    fn surroundings(own: &[(&str, &str)], config: &str) -> Surroundings {
        let own = own
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = ClusterConfig::parse(config).expect("valid");
        Surroundings::new(own, Path::new("/opt/flame"), &config)
    }

    fn child(
        surroundings: &Surroundings,
        application: &[(&str, &str)],
        temporary: Option<&str>,
    ) -> BTreeMap<String, String> {
        let application: Vec<(String, String)> = application
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        surroundings.of(&Particulars {
            application: &application,
            socket: Path::new("/run/e.sock"),
            temporary: temporary.map(PathBuf::from),
            session: "s",
            executor: "e",
        })
    }

    #[test]
    fn the_contract_variables_are_there() {
        let surroundings = surroundings(&[("HOME", "/root"), ("PATH", "/bin")], CONFIG);
        let child = child(&surroundings, &[], Some("/tmp/app"));
        for (name, value) in [
            ("FLAME_INSTANCE_ENDPOINT", "/run/e.sock"),
            ("FLAME_ENDPOINT", "https://manager:9000"),
            ("FLAME_CA_FILE", "/ca.pem"),
            ("FLAME_CACHE_ENDPOINT", "grpcs://cache:9090"),
            ("FLAME_SESSION_ID", "s"),
            ("FLAME_EXECUTOR_ID", "e"),
            ("FLAME_HOME", "/opt/flame"),
            ("RUST_LOG", "info"),
            ("FLAME_LOG", "info"),
            ("HOME", "/root"),
            ("PATH", "/bin"),
            ("TMPDIR", "/tmp/app"),
            ("TEMP", "/tmp/app"),
            ("TMP", "/tmp/app"),
            ("PYTHONUNBUFFERED", "1"),
        ] {
            assert_eq!(child.get(name).map(String::as_str), Some(value), "{name}");
        }
    }

    #[test]
    fn what_is_not_configured_is_not_set() {
        let child = child(&surroundings(&[], PLAIN), &[], None);
        for name in ["FLAME_CA_FILE", "FLAME_CACHE_ENDPOINT", "TMPDIR", "HOME"] {
            assert!(!child.contains_key(name), "{name}");
        }
    }

    #[test]
    fn what_systemd_told_the_agent_is_not_handed_on() {
        let own: Vec<(&str, &str)> = AGENT_ONLY.iter().map(|name| (*name, "x")).collect();
        let child = child(&surroundings(&own, PLAIN), &[], None);
        for name in AGENT_ONLY {
            assert!(!child.contains_key(*name), "{name}");
        }
    }

    #[test]
    fn the_application_wins_over_the_agent_but_not_over_the_contract() {
        let own = [
            ("A", "agent"),
            ("RUST_LOG", "debug"),
            ("HOME", "/root"),
            ("TMP", "/mine"),
        ];
        let surroundings = surroundings(&own, PLAIN);
        let child = child(
            &surroundings,
            &[
                ("A", "app-$A-${HOME}-$NONE"),
                ("HOME", "/app"),
                ("FLAME_LOG", "trace"),
                ("PYTHONUNBUFFERED", ""),
                ("FLAME_INSTANCE_ENDPOINT", "/elsewhere"),
                ("FLAME_ENDPOINT", "http://elsewhere:1"),
            ],
            Some("/tmp/app"),
        );
        for (name, value) in [
            ("A", "app-agent-/root-$NONE"),
            ("HOME", "/app"),
            ("RUST_LOG", "debug"),
            ("FLAME_LOG", "trace"),
            ("TMP", "/mine"),
            ("TEMP", "/tmp/app"),
            ("PYTHONUNBUFFERED", ""),
            ("FLAME_INSTANCE_ENDPOINT", "/run/e.sock"),
            ("FLAME_ENDPOINT", "http://127.0.0.1:8080"),
        ] {
            assert_eq!(child.get(name).map(String::as_str), Some(value), "{name}");
        }
    }

    #[test]
    fn commands_see_the_childs_variables_first_and_then_the_agents() {
        let surroundings = surroundings(&[("A", "agent"), ("NOTIFY_SOCKET", "n")], PLAIN);
        let child = child(&surroundings, &[("A", "app")], None);
        for (text, expanded) in [
            ("${FLAME_HOME}/bin/x", "/opt/flame/bin/x"),
            ("$A", "app"),
            ("$NOTIFY_SOCKET", "n"),
            ("--flag=$NONE", "--flag=$NONE"),
        ] {
            assert_eq!(surroundings.expand_in(&child, text), expanded);
        }
    }
}
