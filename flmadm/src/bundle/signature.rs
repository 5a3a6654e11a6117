//! Signatures of bundles, in minisign's format: who is trusted, and whose a bundle is.

use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature, StreamVerifier};
use schemars::JsonSchema;
use serde::Serialize;

use super::refusal::Refusal;
use crate::failure::{Failure, Outcome};

/// Added to the name of a bundle it is that of its signature.
pub(crate) const EXTENSION: &str = ".minisig";
/// Public keys that the builder of this program trusts, separated by spaces; set when flmadm is compiled.
const EMBEDDED: Option<&str> = option_env!("FLAME_TRUSTED_KEYS");
/// Where an installation keeps the keys that it trusts.
const DIRECTORY: &str = "conf/trusted-keys";

/// A key that may sign bundles.
#[derive(Debug, Clone)]
struct TrustedKey {
    key: PublicKey,
    /// Where it comes from.
    from: String,
}

/// The keys that may sign bundles.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrustedKeys(Vec<TrustedKey>);

impl TrustedKeys {
    /// The keys that flmadm was built with, and those that the installation in `prefix` trusts.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub(crate) fn of(prefix: &Path) -> Outcome<Self> {
        Self::beside(EMBEDDED.unwrap_or_default(), prefix)
    }

    fn beside(embedded: &str, prefix: &Path) -> Outcome<Self> {
        let mut keys = Self::default();
        for text in embedded.split_whitespace() {
            keys.add_text(text, "flmadm itself")?;
        }
        let directory = prefix.join(DIRECTORY);
        let failed = |error| Failure::path("read", &directory, error);
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(keys),
            Err(error) => return Err(failed(error)),
        };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(failed)?.path());
        }
        paths.sort();
        for path in paths {
            if path.extension().is_some_and(|extension| extension == "pub") {
                keys.add_file(&path)?;
            }
        }
        Ok(keys)
    }

    /// Trusts the key in a file of minisign.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn add_file(&mut self, path: &Path) -> Outcome<()> {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::path("read", path, error))?;
        let key = PublicKey::decode(&text).map_err(|error| no_key(&path.display().to_string(), error))?;
        let from = path.display().to_string();
        self.0.push(TrustedKey { key, from });
        Ok(())
    }

    /// Trusts a key as one line of text.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn add_text(&mut self, text: &str, from: &str) -> Outcome<()> {
        let key = PublicKey::from_base64(text.trim()).map_err(|error| no_key(text, error))?;
        self.0.push(TrustedKey {
            key,
            from: from.to_owned(),
        });
        Ok(())
    }
}

fn no_key(what: &str, error: minisign_verify::Error) -> Failure {
    Failure::arguments(format!("{what} is not a public key of minisign"))
        .because(error)
        .hint("such a key has 56 characters and begins with RW; flmadm bundle keygen makes a pair")
}

/// Who made a bundle, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum Trust {
    /// The signature of a trusted key was checked.
    Signed {
        /// Number of the key.
        key_id: String,
        /// Where the key comes from.
        from: String,
        /// What the signer says about the file; part of what is signed.
        comment: String,
    },
    /// There is a signature of a key that is not known here; it could not be checked.
    UnknownKey {
        /// Number of the key.
        key_id: String,
    },
    /// There is no signature.
    Unsigned,
}

/// A signature that fits a file or not, once all of the file is known.
pub(super) struct Claim {
    signature: Signature,
    key_id: String,
}

impl Claim {
    /// Reads the text of a signature.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let signature =
            Signature::decode(text).map_err(|error| Refusal::SignatureFormat(error.to_string()))?;
        Ok(Self {
            key_id: key_id(text)?,
            signature,
        })
    }

    /// The number of the key that it says it is of.
    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Begins to check it against the keys that may have made it.
    ///
    /// # Errors
    /// It is of an old kind, for which a file must be in memory.
    pub(super) fn check<'a>(&'a self, trusted: &'a TrustedKeys) -> Result<Check<'a>, Refusal> {
        let mut verifiers = Vec::new();
        for TrustedKey { key, from } in &trusted.0 {
            match key.verify_stream(&self.signature) {
                Ok(verifier) => verifiers.push((verifier, from.as_str())),
                Err(minisign_verify::Error::UnexpectedKeyId) => {}
                Err(error) => return Err(Refusal::SignatureFormat(error.to_string())),
            }
        }
        Ok(Check {
            claim: self,
            verifiers,
        })
    }
}

/// A check that goes on while the file is read.
pub(super) struct Check<'a> {
    claim: &'a Claim,
    verifiers: Vec<(StreamVerifier<'a>, &'a str)>,
}

impl Check<'_> {
    /// More of the file.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        for (verifier, _) in &mut self.verifiers {
            verifier.update(bytes);
        }
    }

    /// Whose file it is.
    ///
    /// # Errors
    /// The signature does not fit. That no key is known is no error here.
    pub(super) fn finish(mut self) -> Result<Trust, Refusal> {
        let key_id = self.claim.key_id.clone();
        if self.verifiers.is_empty() {
            return Ok(Trust::UnknownKey { key_id });
        }
        let fitting = self
            .verifiers
            .iter_mut()
            .find_map(|(verifier, from)| verifier.finalize().ok().map(|()| (*from).to_owned()));
        match fitting {
            Some(from) => Ok(Trust::Signed {
                key_id,
                from,
                comment: self.claim.signature.trusted_comment().to_owned(),
            }),
            None => Err(Refusal::Signature),
        }
    }
}

/// The number of the key in the text of a signature, as minisign prints it. The text has been decoded before: the
/// crate that reads numbers does not check all lengths.
fn key_id(text: &str) -> Result<String, Refusal> {
    let parsed = minisign::SignatureBox::from_string(text)
        .map_err(|error| Refusal::SignatureFormat(error.to_string()))?;
    Ok(number(parsed.keynum()))
}

/// The number of a key as minisign prints it: least significant byte last.
pub(super) fn number(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key pair and signature made by the original minisign, of the four bytes "test".
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1556193335\tfile:test\n\
        y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==\n";

    fn trust(signature: &str, keys: &TrustedKeys, file: &[u8]) -> Result<Trust, Refusal> {
        let claim = Claim::parse(signature)?;
        let mut check = claim.check(keys)?;
        check.update(file);
        check.finish()
    }

    fn keys() -> TrustedKeys {
        let mut keys = TrustedKeys::default();
        keys.add_text(KEY, "a test").expect("a key");
        keys
    }

    #[test]
    fn signatures_of_the_original_minisign_are_read() {
        assert_eq!(
            trust(SIGNATURE, &keys(), b"test").expect("fits"),
            Trust::Signed {
                key_id: "E7620F1842B4E81F".to_owned(),
                from: "a test".to_owned(),
                comment: "timestamp:1556193335\tfile:test".to_owned(),
            }
        );
        let refusal = trust(SIGNATURE, &keys(), b"Test").expect_err("another file");
        assert!(matches!(refusal, Refusal::Signature), "{refusal}");
        assert_eq!(
            trust(SIGNATURE, &TrustedKeys::default(), b"test").expect("cannot be checked"),
            Trust::UnknownKey {
                key_id: "E7620F1842B4E81F".to_owned()
            }
        );
    }

    #[test]
    fn broken_signatures_are_errors() {
        let lines: Vec<&str> = SIGNATURE.lines().collect();
        let short = |line: usize| {
            let mut lines = lines.clone();
            lines[line] = &lines[line][..lines[line].len() / 2 / 4 * 4];
            lines.join("\n")
        };
        for text in [
            String::new(),
            "x".to_owned(),
            lines[..3].join("\n"),
            short(1),
            short(2).replace("trusted comment: t", "t"),
            short(3),
            SIGNATURE.replace("timestamp:1", "timestamp:2"),
            SIGNATURE.replace("y/rUw", "y/rUv"),
            SIGNATURE.replace("RUQf6LRCGA9i559", "RWQf6LRCGA9i559"),
        ] {
            assert!(trust(&text, &keys(), b"test").is_err(), "{text}");
        }
    }

    #[test]
    fn keys_of_an_installation_are_trusted() {
        let prefix = tempfile::tempdir().expect("temporary directory");
        let count = |embedded: &str| TrustedKeys::beside(embedded, prefix.path()).map(|keys| keys.0.len());
        assert_eq!(count("").expect("none"), 0);
        assert_eq!(count(&format!(" {KEY} {KEY}\n")).expect("embedded"), 2);
        assert!(count("nonsense").is_err());
        let directory = prefix.path().join(DIRECTORY);
        std::fs::create_dir_all(&directory).expect("made");
        std::fs::write(directory.join("README"), "no key").expect("written");
        let file = directory.join("flame.pub");
        std::fs::write(&file, format!("untrusted comment: minisign public key\n{KEY}\n")).expect("written");
        assert_eq!(count("").expect("one"), 1);
        assert_eq!(count(KEY).expect("both"), 2);
        std::fs::write(&file, "nonsense\n").expect("written");
        let failure = count("").expect_err("no key");
        assert!(failure.report().contains("flame.pub"), "{}", failure.report());
    }
}
