//! `sbin/flmenv.sh` and its twin for fish: what a shell needs to work with an installation.

use std::path::Path;

/// Name of the file for sh, bash, dash, ksh and zsh, in sbin/.
pub(crate) const SHELL: &str = "flmenv.sh";
/// Name of the file for fish, in sbin/.
pub(crate) const FISH: &str = "flmenv.fish";

/// The file for sh and its kin. It asks flmadm for the endpoint, which may be changed at any time.
pub(crate) fn shell(prefix: &Path) -> String {
    format!(
        r#"# Environment of the Flame in {display}, to be sourced: . {file}
# For sh, bash, dash, ksh and zsh. Sourced again it changes nothing. Made by flmadm; changes are lost.

FLAME_HOME={prefix}
# What flmadm does not know is left to ~/.flame/flame.yaml.
FLAME_ENDPOINT=$("$FLAME_HOME/sbin/flmadm" config get cluster.endpoint --prefix "$FLAME_HOME" 2>/dev/null) &&
    export FLAME_ENDPOINT || unset FLAME_ENDPOINT
case ":${{PATH-}}:" in
    *":$FLAME_HOME/bin:"*) ;;
    *) PATH="$FLAME_HOME/bin${{PATH:+:$PATH}}" ;;
esac
case ":${{MANPATH-}}:" in
    *":$FLAME_HOME/share/man:"*) ;;
    # The empty part at the end stands for the places that man knows itself.
    *) MANPATH="$FLAME_HOME/share/man:${{MANPATH-}}" ;;
esac
export FLAME_HOME PATH MANPATH
"#,
        display = one_line(prefix),
        file = quoted(&prefix.join("sbin").join(SHELL).to_string_lossy()),
        prefix = quoted(&prefix.to_string_lossy()),
    )
}

/// The same for fish.
pub(crate) fn fish(prefix: &Path) -> String {
    format!(
        r#"# Environment of the Flame in {display}, to be sourced: source {file}
# For fish. Sourced again it changes nothing. Made by flmadm; changes are lost.

set -gx FLAME_HOME {prefix}
# What flmadm does not know is left to ~/.flame/flame.yaml.
set -gx FLAME_ENDPOINT ("$FLAME_HOME/sbin/flmadm" config get cluster.endpoint --prefix "$FLAME_HOME" 2>/dev/null)
or set -e FLAME_ENDPOINT
contains -- "$FLAME_HOME/bin" $PATH
or set -gx PATH "$FLAME_HOME/bin" $PATH
if not set -q MANPATH
    # The empty part stands for the places that man knows itself.
    set -gx MANPATH "$FLAME_HOME/share/man" ''
else if not contains -- "$FLAME_HOME/share/man" $MANPATH
    set -gx MANPATH "$FLAME_HOME/share/man" $MANPATH
end
"#,
        display = one_line(prefix),
        file = fish_quoted(&prefix.join("sbin").join(FISH).to_string_lossy()),
        prefix = fish_quoted(&prefix.to_string_lossy()),
    )
}

/// A path in a comment, which must not end before it does.
fn one_line(path: &Path) -> String {
    path.to_string_lossy().replace(['\n', '\r'], "?")
}

/// As one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// As one word of fish, where a backslash counts within quotes, too.
fn fish_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// An installation whose flmadm does what `script` says, with an environment file.
    fn installation(name: &str, script: &str) -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().expect("temporary directory");
        let prefix = home.path().join(name);
        std::fs::create_dir_all(prefix.join("sbin")).expect("made");
        let program = prefix.join("sbin/flmadm");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
        for (file, text) in [(SHELL, shell(&prefix)), (FISH, fish(&prefix))] {
            std::fs::write(prefix.join("sbin").join(file), text).expect("written");
        }
        (home, prefix)
    }

    /// What `shell` prints after it has sourced the file `times` times, with `environment` only.
    fn sourced(
        shell: &str,
        prefix: &Path,
        times: usize,
        environment: &[(&str, &str)],
    ) -> Option<Vec<String>> {
        let file = match shell {
            "fish" => prefix.join("sbin").join(FISH),
            _ => prefix.join("sbin").join(SHELL),
        };
        let strict = if shell == "fish" { "" } else { "set -eu\n" };
        let source = if shell == "fish" {
            "source $F\n"
        } else {
            ". \"$F\"\n"
        };
        let shown = "env | grep -E '^(FLAME_|PATH=|MANPATH=)' | sort";
        let mut command = Command::new(shell_path(shell)?);
        command
            .env_clear()
            .env("F", &file)
            .envs(environment.iter().copied());
        command.args(["-c", &format!("{strict}{}{shown}", source.repeat(times))]);
        let output = command.output().expect("run");
        assert!(output.status.success(), "{shell}: {output:?}");
        assert!(output.stderr.is_empty(), "{shell}: {output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        Some(text.lines().map(str::to_owned).collect())
    }

    fn shell_path(name: &str) -> Option<PathBuf> {
        let places = ["/bin", "/usr/bin", "/usr/local/bin"];
        places
            .iter()
            .map(|place| Path::new(place).join(name))
            .find(|path| path.exists())
    }

    /// All that are here; sh is everywhere.
    fn shells() -> Vec<&'static str> {
        let all = ["sh", "dash", "bash", "zsh", "ksh", "fish"];
        all.into_iter()
            .filter(|name| shell_path(name).is_some())
            .collect()
    }

    #[test]
    fn every_shell_gets_the_environment_and_gets_it_once() {
        let (_home, prefix) = installation("a flame's $(place) with 'quotes' *", "echo http://new:9090");
        let place = prefix.display();
        for shell in shells() {
            for times in [1, 2, 3] {
                let got = sourced(shell, &prefix, times, &[("PATH", "/usr/bin:/bin")]).expect("there");
                assert!(got.contains(&format!("FLAME_HOME={place}")), "{shell}: {got:?}");
                assert!(
                    got.contains(&"FLAME_ENDPOINT=http://new:9090".to_owned()),
                    "{shell}: {got:?}"
                );
                assert!(
                    got.contains(&format!("MANPATH={place}/share/man:")),
                    "{shell}: {got:?}"
                );
                assert!(
                    got.contains(&format!("PATH={place}/bin:/usr/bin:/bin")),
                    "{shell}: {got:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_there_is_kept() {
        let (_home, prefix) = installation("flame", "echo http://new:9090");
        for shell in shells() {
            let before = [("PATH", "/usr/bin:/bin"), ("MANPATH", "/opt/man")];
            let got = sourced(shell, &prefix, 2, &before).expect("there");
            assert!(
                got.contains(&format!("MANPATH={}/share/man:/opt/man", prefix.display())),
                "{shell}: {got:?}"
            );
        }
    }

    #[test]
    fn without_an_answer_of_flmadm_the_endpoint_is_left_to_others() {
        let (_home, prefix) = installation("flame", "echo nothing useful; exit 3");
        for shell in shells() {
            for before in [
                &[("PATH", "/usr/bin:/bin")] as &[_],
                &[("PATH", "/usr/bin:/bin"), ("FLAME_ENDPOINT", "x")],
            ] {
                let got = sourced(shell, &prefix, 2, before).expect("there");
                assert!(
                    !got.iter().any(|line| line.starts_with("FLAME_ENDPOINT")),
                    "{shell}: {got:?}"
                );
                assert!(
                    got.contains(&format!("FLAME_HOME={}", prefix.display())),
                    "{shell}: {got:?}"
                );
            }
        }
    }

    #[test]
    fn an_unset_path_is_no_error() {
        let (_home, prefix) = installation("flame", "echo http://new:9090");
        let text = format!(
            "set -eu; unset PATH; . '{}/sbin/{SHELL}'; echo \"$PATH\"",
            prefix.display()
        );
        let output = Command::new("/bin/sh").args(["-c", &text]).output().expect("run");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), format!("{}/bin", prefix.display()), "{output:?}");
    }
}
