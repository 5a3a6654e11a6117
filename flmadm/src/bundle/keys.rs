//! Secret keys: making a pair, and signing a bundle.

use std::fs::File;
use std::io::{BufReader, IsTerminal};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flame_core::fsutil::Draft;
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

use super::signature::{EXTENSION, number};
use crate::failure::{Failure, Outcome};

/// Names the variable that has the password of a secret key.
pub(crate) const PASSWORD_VARIABLE: &str = "FLMADM_KEY_PASSWORD";
/// Where the kind of encryption stands in a decoded secret key, and what it is if there is none.
const ENCRYPTION: (usize, [u8; 2]) = (2, [0, 0]);

/// A password, or a way to ask for it.
pub(crate) enum Password {
    /// As the environment says.
    Known(String),
    /// Only a person knows it, if there is one.
    Ask,
}

impl Password {
    /// The password in the environment, or a question.
    pub(crate) fn from_environment() -> Self {
        match std::env::var(PASSWORD_VARIABLE) {
            Ok(password) => Self::Known(password),
            Err(_) => Self::Ask,
        }
    }

    fn get(self, questions: &[&str]) -> Outcome<String> {
        match self {
            Self::Known(password) => Ok(password),
            Self::Ask => ask(questions),
        }
    }
}

/// Asks every question; the answers must be the same.
fn ask(questions: &[&str]) -> Outcome<String> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::arguments(
            "the secret key has a password, and there is no terminal to ask for it",
        )
        .hint(format!(
            "set it in the variable {PASSWORD_VARIABLE}, or use a key that was made with --no-password"
        )));
    }
    let mut answer: Option<String> = None;
    for question in questions {
        let given = rpassword::prompt_password(question)
            .map_err(|error| Failure::arguments("cannot ask for the password").because(error))?;
        if answer.is_some_and(|before| before != given) {
            return Err(Failure::arguments("the two passwords differ; no key was made"));
        }
        answer = Some(given);
    }
    Ok(answer.unwrap_or_default())
}

/// A pair of keys as files.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) secret: PathBuf,
    pub(super) public: PathBuf,
    /// Number of both.
    pub(super) key_id: String,
    /// The public key as one line.
    pub(super) text: String,
}

/// Makes a pair: the secret key at `path`, the public one beside it with `.pub`. `password` protects the secret key.
///
/// # Errors
/// One of the files is there, or cannot be written.
pub(super) fn generate(path: &Path, password: Option<Password>) -> Outcome<Pair> {
    let public = with_extension(path, ".pub");
    for path in [path, &public] {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::arguments(format!("{} is there already", path.display()))
                .hint("keys are never replaced; choose another name with --out"));
        }
    }
    let failed = |error: minisign::PError| Failure::arguments("cannot make a key").because(error);
    let pair = match password {
        None => KeyPair::generate_unencrypted_keypair(),
        Some(password) => {
            let password = password.get(&["Password for the secret key: ", "The same again: "])?;
            if password.is_empty() {
                return Err(Failure::arguments("the password is empty")
                    .hint("--no-password makes a key without one, for machines that sign on their own"));
            }
            KeyPair::generate_encrypted_keypair(Some(password))
        }
    }
    .map_err(failed)?;
    let key_id = number(pair.pk.keynum());
    let secret = pair
        .sk
        .to_box(Some(&format!("flmadm secret key {key_id}")))
        .map_err(failed)?;
    let shown = pair.pk.to_box().map_err(failed)?;
    write_new(path, &secret.to_string(), 0o600)?;
    write_new(&public, &shown.to_string(), 0o644)?;
    Ok(Pair {
        secret: path.to_path_buf(),
        public,
        key_id,
        text: pair.pk.to_base64(),
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Outcome<()> {
    let mut draft = Draft::of(path)?;
    draft.fill(|file| std::io::Write::write_all(file, text.as_bytes()))?;
    Ok(draft.create(mode)?)
}

/// `path` with something added to its name.
pub(super) fn with_extension(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(extension);
    PathBuf::from(name)
}

/// A secret key that can sign.
pub(super) struct Signer(SecretKey);

impl Signer {
    /// Reads the secret key at `path`; asks for the password only if it has one.
    ///
    /// # Errors
    /// It is none, or the password is wrong.
    pub(super) fn load(path: &Path, password: Password) -> Outcome<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::path("read", path, error))?;
        let wrong = |why: &str| {
            Failure::arguments(format!("{} {why}", path.display()))
                .hint("--sign takes a secret key of minisign, as flmadm bundle keygen makes it")
        };
        let line = text.lines().nth(1).unwrap_or_default();
        let bytes = BASE64_STANDARD
            .decode(line.trim())
            .map_err(|error| wrong("is not a secret key").because(error))?;
        let (at, none) = ENCRYPTION;
        let is_open = bytes.get(at..at + none.len()) == Some(&none);
        let boxed = SecretKeyBox::from(text.clone());
        let key = match is_open {
            true => boxed.into_unencrypted_secret_key(),
            false => boxed.into_secret_key(Some(
                password.get(&[&format!("Password of {}: ", path.display())])?,
            )),
        };
        key.map(Self)
            .map_err(|error| wrong("cannot be used as a secret key").because(error))
    }

    /// Number of the key.
    pub(super) fn key_id(&self) -> String {
        number(self.0.keynum())
    }

    /// Writes the signature of `file` beside it, with `comment` as a part of what is signed.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(super) fn sign(&self, file: &Path, comment: &str) -> Outcome<PathBuf> {
        let unreadable = |error| Failure::path("read", file, error);
        let reader = BufReader::new(File::open(file).map_err(unreadable)?);
        let failed = |error: minisign::PError| {
            Failure::installation(format!("cannot sign {}", file.display())).because(error)
        };
        let public = PublicKey::from_secret_key(&self.0).map_err(failed)?;
        let says = format!("signature of Flame with the key {}", self.key_id());
        let signature =
            minisign::sign(Some(&public), &self.0, reader, Some(comment), Some(&says)).map_err(failed)?;
        let path = with_extension(file, EXTENSION);
        flame_core::fsutil::write_atomic(&path, signature.to_string().as_bytes(), 0o644)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(password: &str) -> Password {
        Password::Known(password.to_owned())
    }

    #[test]
    fn a_key_with_a_password_needs_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("flame.key");
        let pair = generate(&path, Some(known("open sesame"))).expect("made");
        let signer = Signer::load(&pair.secret, known("open sesame")).expect("the password");
        assert_eq!(signer.key_id(), pair.key_id);
        let failure = Signer::load(&pair.secret, known("sesame")).err().expect("wrong");
        assert!(
            failure.report().contains("Wrong password"),
            "{}",
            failure.report()
        );
        if !std::io::stdin().is_terminal() {
            let failure = Signer::load(&pair.secret, Password::Ask)
                .err()
                .expect("nobody to ask");
            assert!(
                failure.report().contains(PASSWORD_VARIABLE),
                "{}",
                failure.report()
            );
        }
    }

    #[test]
    fn keys_are_private_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("flame.key");
        let pair = generate(&path, None).expect("made");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&pair.secret), mode(&pair.public)), (0o600, 0o644));
        generate(&path, None).expect_err("there already");
        generate(&directory.path().join("other"), Some(known(""))).expect_err("no password");
        for text in [
            "",
            "untrusted comment: x\n",
            "untrusted comment: x\n!\n",
            "untrusted comment: x\nRW==\n",
        ] {
            std::fs::write(&path, text).expect("written");
            assert!(Signer::load(&path, Password::Ask).is_err(), "{text}");
        }
    }
}
