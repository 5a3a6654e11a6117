//! Whether daemons could use their settings if they were started now.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::doctor::check::{Check, Look, Mode, Severity, When, good, wrong};
use crate::doctor::site::Site;
use crate::failure::{Failure, Outcome, chain};
use crate::node_config;
use crate::profile::Profile::{ControlPlane, Worker};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "configuration",
        title: "conf/flame-cluster.yaml is valid",
        severity: Severity::Error,
        when: &[When::Installed],
        preflight: None,
        look: configuration,
    },
    Check {
        id: "agent-settings",
        title: "conf/node-agent.toml and those of further agents are valid",
        severity: Severity::Error,
        when: &[When::Installed, When::Has(Worker)],
        preflight: None,
        look: agents,
    },
    Check {
        id: "tls-files",
        title: "certificate and key are there, for the session manager alone",
        severity: Severity::Error,
        when: &[When::Installed, When::Has(ControlPlane)],
        preflight: None,
        look: tls,
    },
];

fn configuration(site: &Site<'_>) -> Look {
    let path = site.prefix.config();
    match flame_core::config::ClusterConfig::load(&path) {
        Ok(config) => good(format!("cluster {} at {}", config.name, config.endpoint.url())),
        Err(error) => wrong(
            chain(&error),
            format!(
                "mend {}, or flmadm install --force makes a new one (the old one is kept as .bak)",
                path.display()
            ),
        ),
    }
}

fn agents(site: &Site<'_>) -> Look {
    match node_config::read(site.prefix) {
        Ok(files) => good(match files.len() {
            0 => "there is no file, so defaults are used".to_owned(),
            count => format!("{count} valid"),
        }),
        Err(failure) => wrong(failure.chain(), "mend these lines, and restart the agent"),
    }
}

fn tls(site: &Site<'_>) -> Look {
    let Some(tls) = &site.config()?.tls else {
        return good("TLS is not used");
    };
    let user = match &site.installed()?.user {
        Some(user) if site.mode == Mode::System => site.host.user(&user.name)?,
        _ => None,
    };
    let mut problems = Vec::new();
    for (path, secret) in [(&tls.cert_file, false), (&tls.key_file, true)] {
        // Relative to where the daemon works.
        let path = site.prefix.join("data").join(path);
        problems.extend(problem(&path, secret, user)?);
    }
    match problems.is_empty() {
        true => good(format!(
            "{} and {}",
            tls.cert_file.display(),
            tls.key_file.display()
        )),
        false => wrong(
            problems.join(", "),
            match &site.installed()?.user {
                Some(user) => format!(
                    "write PEM files that the user of the services may read: chown {}: FILE && chmod 0400 FILE",
                    user.name
                ),
                None => "write PEM files that you may read: chmod 0400 FILE".to_owned(),
            },
        ),
    }
}

fn problem(path: &Path, secret: bool, user: Option<crate::host::Ids>) -> Outcome<Option<String>> {
    let shown = path.display();
    let found = match path.metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Some(format!("{shown} is missing")));
        }
        Err(error) => return Err(Failure::path("look at", path, error)),
    };
    if secret && found.mode() & 0o007 != 0 {
        return Ok(Some(format!(
            "everybody may use {shown} (mode {:04o})",
            found.mode() & 0o7777
        )));
    }
    if let Some(user) = user {
        let may = match (found.uid() == user.uid, found.gid() == user.gid) {
            (true, _) => 0o400,
            (false, true) => 0o040,
            (false, false) => 0o004,
        };
        if found.mode() & may == 0 {
            return Ok(Some(format!("the services may not read {shown}")));
        }
    }
    let text = std::fs::read(path).map_err(|error| Failure::path("read", path, error))?;
    Ok((!text.windows(11).any(|part| part == b"-----BEGIN ")).then(|| format!("{shown} is no PEM file")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::testing::{Found, Machine, expect, expect_facts, expect_of};
    use super::*;

    #[test]
    fn broken_settings_are_told_with_their_key() {
        for id in ["configuration", "agent-settings"] {
            expect_facts(id, &Found::Good, |_| {});
        }
        expect("configuration", &Found::Wrong("nam"), |machine| {
            std::fs::write(machine.prefix.config(), "cluster:\n  nam: x\n").expect("written");
        });
        expect("configuration", &Found::Wrong("flame-cluster.yaml"), |machine| {
            std::fs::remove_file(machine.prefix.config()).expect("removed");
        });
        expect(
            "agent-settings",
            &Found::Wrong("node-agent.toml, line 2"),
            |machine| {
                std::fs::write(machine.prefix.join("conf/node-agent.toml"), "[node]\nnam = 1\n")
                    .expect("written");
            },
        );
        expect("agent-settings", &Found::Good, |machine| {
            std::fs::remove_file(machine.prefix.join("conf/node-agent.toml")).expect("removed");
        });
        expect("agent-settings", &Found::Wrong("cannot read"), |machine| {
            let conf = machine.prefix.join("conf");
            std::fs::remove_dir_all(&conf).expect("removed");
            std::fs::write(conf, "").expect("written");
        });
    }

    #[test]
    fn keys_are_there_and_secret() {
        expect_facts("tls-files", &Found::Good, |_| {});
        let mut machine = Machine::new();
        let data = machine.prefix.join("data");
        let text = "cluster:\n  name: a\n  endpoint: https://127.0.0.1:8080\n  tls:\n    cert_file: cert.pem\n    key_file: key.pem\n";
        std::fs::write(machine.prefix.config(), text).expect("written");
        expect_of(&machine, "tls-files", &Found::Wrong("data/cert.pem is missing"));
        let write = |name: &str, text: &str, mode: u32| {
            std::fs::write(data.join(name), text).expect("written");
            std::fs::set_permissions(data.join(name), std::fs::Permissions::from_mode(mode)).expect("set");
        };
        write("cert.pem", "-----BEGIN CERTIFICATE-----", 0o644);
        write("key.pem", "-----BEGIN PRIVATE KEY-----", 0o644);
        expect_of(&machine, "tls-files", &Found::Wrong("everybody may use"));
        write("key.pem", "-----BEGIN PRIVATE KEY-----", 0o600);
        expect_of(&machine, "tls-files", &Found::Wrong("may not read"));
        machine.host.uid = data.metadata().expect("there").uid();
        expect_of(&machine, "tls-files", &Found::Good);
        write("cert.pem", "DER", 0o644);
        expect_of(&machine, "tls-files", &Found::Wrong("cert.pem is no PEM file"));
        std::fs::remove_file(data.join("cert.pem")).expect("removed");
        std::fs::create_dir(data.join("cert.pem")).expect("made");
        expect_of(&machine, "tls-files", &Found::Unknown("cannot read"));
    }
}
