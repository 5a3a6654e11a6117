//! Random changes of a bundle and its signature: all are noticed.

use proptest::prelude::{ProptestConfig, any, proptest};

use super::fixture::{Fixture, Shelf};
use super::keys::with_extension;
use super::open::{Located, open};
use super::signature::EXTENSION;
use super::tampering_tests::refused;

/// Bytes of a bundle and a signature that are the same in every case.
struct Subject {
    shelf: Shelf,
    located: Located,
    bytes: Vec<u8>,
    signature: Vec<u8>,
    /// Where the part of the signature begins that is protected.
    protected: usize,
}

impl Subject {
    fn new() -> Self {
        let shelf = Shelf::new();
        let bytes = Fixture::small().bytes();
        let located = shelf.signed(&bytes);
        let signature = std::fs::read(with_extension(&located.bundle, EXTENSION)).expect("read");
        let protected = 1 + signature.iter().position(|byte| *byte == b'\n').expect("a line");
        Self {
            shelf,
            located,
            bytes,
            signature,
            protected,
        }
    }

    /// Writes them with changes.
    fn with(&self, change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) {
        let (mut bytes, mut signature) = (self.bytes.clone(), self.signature.clone());
        change(&mut bytes, &mut signature);
        std::fs::write(&self.located.bundle, bytes).expect("written");
        std::fs::write(with_extension(&self.located.bundle, EXTENSION), signature).expect("written");
    }
}

thread_local! {
    static SUBJECT: Subject = Subject::new();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_flipped_bits_are_noticed(places in proptest::collection::vec((any::<u32>(), 1_u8..), 1..4)) {
        SUBJECT.with(|subject| {
            let length = subject.bytes.len();
            let mut changed = subject.bytes.clone();
            for (at, bits) in &places {
                changed[*at as usize % length] ^= bits;
            }
            // Two flips of one byte can cancel out.
            if changed == subject.bytes {
                return;
            }
            subject.with(|bytes, _| *bytes = changed.clone());
            let report = refused(&subject.shelf, &subject.located, &subject.shelf.policy());
            assert!(report.contains("does not fit"), "{report}");
            // Without the signature the hashes protect the files. Nothing protects the words around them, as the version.
            let mut policy = subject.shelf.policy();
            policy.allow.unsigned = true;
            let unsigned = Located { signature: None, ..subject.located.clone() };
            if let Ok(bundle) = open(&unsigned, &policy) {
                assert_eq!(bundle.manifest().files, Fixture::small().manifest.files);
            }
        });
    }

    #[test]
    fn any_flipped_bits_of_the_signature_are_noticed(at in any::<u32>(), bits in 1_u8..) {
        SUBJECT.with(|subject| {
            let length = subject.signature.len() - 1 - subject.protected;
            let at = subject.protected + at as usize % length;
            subject.with(|_, signature| signature[at] ^= bits);
            let report = refused(&subject.shelf, &subject.located, &subject.shelf.policy());
            assert!(!report.contains("panicked"), "{report}");
        });
    }
}
