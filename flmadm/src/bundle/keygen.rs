//! `flmadm bundle keygen`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use super::args::KeygenArgs;
use super::keys::{self, Password};
use crate::failure::Outcome;
use crate::output::Output;

/// The pair of keys that was made.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Keys {
    /// The file to sign with; it must stay secret.
    pub(crate) secret_key: PathBuf,
    /// The file to check signatures with.
    pub(crate) public_key: PathBuf,
    /// Number of both.
    pub(crate) key_id: String,
    /// The public key as text, for --public-key.
    pub(crate) public_key_text: String,
}

/// Makes a pair of keys.
///
/// # Errors
/// A file is there already or cannot be written; nobody gives a password.
pub(super) fn run(args: &KeygenArgs, output: &mut Output<'_>) -> Outcome<()> {
    let password = (!args.no_password).then(Password::from_environment);
    let pair = keys::generate(&args.out, password)?;
    let made = Keys {
        secret_key: pair.secret,
        public_key: pair.public,
        key_id: pair.key_id,
        public_key_text: pair.text,
    };
    output.json(&made);
    for line in lines(&made) {
        output.line(&line);
    }
    Ok(())
}

/// The result for people.
pub(super) fn lines(made: &Keys) -> Vec<String> {
    let (secret, public) = (made.secret_key.display(), made.public_key.display());
    vec![
        format!("Made the key {}", made.key_id),
        format!("  {secret}  signs bundles: keep it secret, and keep a copy"),
        format!("  {public}  checks them: put it into PREFIX/conf/trusted-keys of each machine"),
        format!("  the latter as text: {}", made.public_key_text),
    ]
}
