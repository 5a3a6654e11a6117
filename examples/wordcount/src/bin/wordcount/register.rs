//! Makes sure that the application is registered.

use std::path::PathBuf;

use flame_rs::v1::{ApplicationSpec, Environment};
use flame_rs::{Client, Error};

use crate::args::Args;

/// The Rust service, beside the client.
const SERVICE: &str = "wordcount-service";

/// The Python service, beside the client.
const SCRIPT: &str = "wordcount_service.py";

/// Why the application cannot be registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("there is no {name} beside this program; say with {option} where it is on the nodes")]
    NotBeside {
        name: &'static str,
        option: &'static str,
    },
    #[error(transparent)]
    Flame(#[from] Error),
}

/// Registers the application if it is not there, or changes its command to the one that the user
/// names.
pub(crate) async fn ensure(client: &Client, args: &Args) -> Result<(), RegisterError> {
    let name = &args.application;
    let known = client
        .get_application(name)
        .await?
        .map(|known| known.spec.unwrap_or_default());
    match known {
        None => client.register_application(name, spec(args)?).await?,
        Some(known) if args.register_command.is_some() => {
            let wanted = spec(args)?;
            let same = known.command == wanted.command
                && known.arguments == wanted.arguments
                && known.environments == wanted.environments;
            if !same {
                client.update_application(name, wanted).await?;
            }
        }
        Some(_) => {}
    }
    Ok(())
}

fn spec(args: &Args) -> Result<ApplicationSpec, RegisterError> {
    let mut spec = ApplicationSpec {
        description: Some("Counts lines, words and bytes of pieces of text".to_owned()),
        ..ApplicationSpec::default()
    };
    if args.is_python() {
        let script = match &args.script {
            // The service does not run in our working directory.
            Some(script) => std::path::absolute(script).unwrap_or_else(|_| script.clone()),
            None => beside(SCRIPT, "--script")?,
        };
        spec.command = Some(
            args.register_command
                .clone()
                .unwrap_or_else(|| "python3".to_owned()),
        );
        spec.arguments = vec![script.to_string_lossy().into_owned()];
        spec.environments = args
            .pythonpath
            .iter()
            .map(|path| Environment {
                name: "PYTHONPATH".to_owned(),
                value: path.clone(),
            })
            .collect();
    } else {
        spec.command = Some(match &args.register_command {
            Some(command) => command.clone(),
            None => beside(SERVICE, "--register-command")?
                .to_string_lossy()
                .into_owned(),
        });
    }
    Ok(spec)
}

/// The file `name` in the directory of this program.
fn beside(name: &'static str, option: &'static str) -> Result<PathBuf, RegisterError> {
    std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(name)))
        .filter(|file| file.is_file())
        .ok_or(RegisterError::NotBeside { name, option })
}
