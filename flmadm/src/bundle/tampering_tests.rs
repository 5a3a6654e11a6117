//! Bundles that somebody has tampered with: each is refused for its own reason, and nothing is written.
//!
//! Most cases are signed by a trusted key all the same: the archive must be checked even if its signer was deceived.

use proptest::prelude::{ProptestConfig, any, proptest};

use super::fixture::{Entry, Fixture, Shelf};
use super::keys::with_extension;
use super::limits::{self, Limits};
use super::manifest::{FILE_MODE, NAME};
use super::open::{Located, open};
use super::policy::Policy;
use super::signature::EXTENSION;
use crate::manifest::sha256;

/// Opens a bundle that must be refused and says why; looks that nothing was written.
fn refused(shelf: &Shelf, located: &Located, policy: &Policy) -> String {
    let before = shelf.listing();
    let refusal = open(located, policy).expect_err("refused");
    assert_eq!(shelf.listing(), before, "{refusal}");
    let failure = crate::failure::Failure::from(refusal);
    failure.report()
}

fn refused_fixture(fixture: &Fixture) -> String {
    let shelf = Shelf::new();
    refused(&shelf, &shelf.signed(&fixture.bytes()), &shelf.policy())
}

#[test]
fn a_good_one_is_taken() {
    let shelf = Shelf::new();
    let located = shelf.signed(&Fixture::small().bytes());
    open(&located, &shelf.policy()).expect("taken");
}

/// A change of the archive that the signer did not notice, and what is said about it.
type Case = (&'static str, fn(&mut Fixture), &'static str);

const CASES: &[Case] = &[
    (
        "payload",
        |it| it.entries[0].contents[7] ^= 1,
        "bin/flmctl is not as its manifest says: the hash",
    ),
    (
        "hash",
        |it| it.manifest.files[1].sha256 = sha256(b"x"),
        "sbin/flmadm is not as its manifest says: the hash",
    ),
    (
        "mode",
        |it| it.entries[0].mode = 0o777,
        "bin/flmctl is not as its manifest says: the mode",
    ),
    (
        "set user",
        |it| {
            it.entries[0].mode = 0o4755;
            it.manifest.files[0].mode = 0o4755
        },
        "has the mode 4755",
    ),
    (
        "longer",
        |it| it.entries[1].contents.push(b'x'),
        "sbin/flmadm is not as its manifest says: the size",
    ),
    (
        "shorter",
        |it| it.entries[1].contents.truncate(1),
        "sbin/flmadm is not as its manifest says: the size",
    ),
    (
        "path up",
        |it| it.entries[0].path = "../../etc/x".to_owned(),
        "the path \"../../etc/x\"",
    ),
    ("path up, declared", |it| rename(it, "../x"), "the path \"../x\""),
    (
        "path up inside",
        |it| rename(it, "bin/../../x"),
        "the path \"bin/../../x\"",
    ),
    (
        "absolute path",
        |it| it.entries[0].path = "/etc/x".to_owned(),
        "the path \"/etc/x\"",
    ),
    (
        "absolute path, declared",
        |it| rename(it, "/etc/x"),
        "the path \"/etc/x\"",
    ),
    (
        "symbolic link",
        |it| special(it, b'2'),
        "bin/flmctl is not a file but a symbolic link",
    ),
    (
        "hard link",
        |it| special(it, b'1'),
        "bin/flmctl is not a file but a hard link",
    ),
    (
        "character device",
        |it| special(it, b'3'),
        "bin/flmctl is not a file but a device",
    ),
    (
        "block device",
        |it| special(it, b'4'),
        "bin/flmctl is not a file but a device",
    ),
    (
        "directory",
        |it| special(it, b'5'),
        "bin/flmctl is not a file but a directory",
    ),
    (
        "named pipe",
        |it| special(it, b'6'),
        "bin/flmctl is not a file but a named pipe",
    ),
    (
        "long name of GNU",
        |it| special(it, b'L'),
        "bin/flmctl is not a file but something else",
    ),
    (
        "sparse file of GNU",
        |it| special(it, b'S'),
        "bin/flmctl is not a file but something else",
    ),
    (
        "attributes of POSIX",
        |it| special(it, b'x'),
        "bin/flmctl is not a file but something else",
    ),
    (
        "twice",
        |it| it.entries.insert(1, it.entries[0].clone()),
        "it has bin/flmctl twice",
    ),
    (
        "twice at the end",
        |it| it.entries.push(it.entries[0].clone()),
        "it has bin/flmctl twice",
    ),
    (
        "declared twice",
        |it| it.manifest.files.insert(1, it.manifest.files[0].clone()),
        "it has bin/flmctl twice",
    ),
    (
        "second manifest",
        |it| it.entries.push(Entry::new(NAME, FILE_MODE, b"{}")),
        "it has manifest.json twice",
    ),
    (
        "extra",
        |it| it.entries.push(Entry::new("z", FILE_MODE, b"")),
        "z is in it and not in its manifest",
    ),
    (
        "extra in front",
        |it| it.entries.insert(0, Entry::new("a", FILE_MODE, b"")),
        "a is in it and not in its manifest",
    ),
    (
        "missing",
        |it| drop(it.entries.remove(1)),
        "sbin/flmadm is in its manifest and not in it",
    ),
    (
        "missing at the end",
        |it| drop(it.entries.pop()),
        "units/flame.target is in its manifest and not in it",
    ),
    (
        "other order",
        |it| it.entries.swap(0, 1),
        "bin/flmctl is in its manifest and not in it",
    ),
    (
        "no files",
        |it| {
            it.entries.clear();
            it.manifest.files.clear()
        },
        "it lists no files",
    ),
    ("newer format", |it| it.manifest.format = 2, "its format is 2"),
    (
        "declared too large",
        |it| it.manifest.files[0].size = u64::MAX,
        "would be larger than 4.0 GiB",
    ),
    (
        "file below a file",
        below_a_file,
        "sbin/flmadm is a file and a directory",
    ),
    ("no end", |it| it.end = 0, "it ends in the middle"),
    ("half an end", |it| it.end = 1, "it ends in the middle"),
    ("long end", |it| it.end = 3, "something behind its end"),
    (
        "garbage in the archive",
        |it| it.inside = b"x".to_vec(),
        "something behind its end",
    ),
    (
        "garbage in the end",
        |it| {
            it.end = 1;
            it.inside = vec![1; 512]
        },
        "something behind its end",
    ),
    (
        "garbage behind",
        |it| it.outside = b"x".to_vec(),
        "something behind its end",
    ),
    (
        "second archive behind",
        |it| it.outside = Fixture::small().bytes(),
        "something behind its end",
    ),
];

fn rename(fixture: &mut Fixture, path: &str) {
    fixture.entries[0].path = path.to_owned();
    fixture.manifest.files[0].path = path.to_owned();
}

fn special(fixture: &mut Fixture, kind: u8) {
    fixture.entries[0].kind = kind;
}

fn below_a_file(fixture: &mut Fixture) {
    for (index, path) in [(2, "sbin/flmadm/x"), (3, "sbin/flmadm/y")] {
        fixture.entries[index].path = path.to_owned();
        fixture.manifest.files[index].path = path.to_owned();
    }
}

#[test]
fn the_table_of_archives() {
    for (name, change, part) in CASES {
        let mut fixture = Fixture::small();
        change(&mut fixture);
        let report = refused_fixture(&fixture);
        assert!(report.contains(part), "{name}: {report}");
    }
}

#[test]
fn without_a_check_of_the_signature_the_archive_is_checked_as_well() {
    for (name, change, part) in CASES {
        let mut fixture = Fixture::small();
        change(&mut fixture);
        let shelf = Shelf::new();
        let mut policy = shelf.policy();
        policy.allow.unsigned = true;
        let report = refused(&shelf, &shelf.unsigned(&fixture.bytes()), &policy);
        assert!(report.contains(part), "{name}: {report}");
    }
}

#[test]
fn what_is_no_bundle_is_refused() {
    let shelf = Shelf::new();
    let policy = shelf.policy();
    let empty = zstd::encode_all(&b""[..], 1).expect("compressed");
    let zeros = zstd::encode_all(&[0; 4096][..], 1).expect("compressed");
    let text = zstd::encode_all(&[b'x'; 4096][..], 1).expect("compressed");
    for bytes in [&b""[..], b"x", &[0; 100_000], &empty, &zeros, &text] {
        refused(&shelf, &shelf.signed(bytes), &policy);
    }
    for (manifest, part) in [
        (&b""[..], "its manifest is wrong"),
        (b"{}", "missing field `format`"),
        (b"\xff", "its manifest is wrong"),
        (b"{\"format\": 1}", "missing field `version`"),
    ] {
        let report = refused(
            &shelf,
            &shelf.signed(&Fixture::small().bytes_with(manifest)),
            &policy,
        );
        assert!(report.contains(part), "{report}");
    }
    let directory = Located {
        bundle: shelf.directory.path().to_owned(),
        signature: None,
    };
    assert!(refused(&shelf, &directory, &policy).contains("is not a file"));
    let nowhere = Located {
        bundle: shelf.path("nowhere"),
        signature: None,
    };
    assert!(refused(&shelf, &nowhere, &policy).contains("cannot read"));
}

#[test]
fn a_cut_bundle_is_refused_wherever_it_is_cut() {
    let shelf = Shelf::new();
    let mut policy = shelf.policy();
    policy.allow.unsigned = true;
    let bytes = Fixture::small().bytes();
    for length in (0..bytes.len())
        .step_by(bytes.len() / 200 + 1)
        .chain([bytes.len() - 1])
    {
        refused(&shelf, &shelf.unsigned(&bytes[..length]), &policy);
    }
    // And an archive that is cut before it is compressed.
    let archive = zstd::decode_all(bytes.as_slice()).expect("archive");
    for length in (0..archive.len())
        .step_by(archive.len() / 100 + 1)
        .chain([archive.len() - 512])
    {
        let cut = zstd::encode_all(&archive[..length], 1).expect("compressed");
        refused(&shelf, &shelf.unsigned(&cut), &policy);
    }
}

#[test]
fn signatures_must_fit() {
    let shelf = Shelf::new();
    let policy = shelf.policy();
    let bytes = Fixture::small().bytes();
    let located = shelf.signed(&bytes);
    let path = with_extension(&located.bundle, EXTENSION);
    let right = std::fs::read_to_string(&path).expect("read");
    let with = |signature: &str| {
        std::fs::write(&path, signature).expect("written");
        refused(&shelf, &located, &policy)
    };
    let other_file = shelf.sign(&shelf.keys, b"another file");
    assert!(with(&other_file).contains("its signature does not fit"));
    assert!(with(&right.replace("trusted comment: test", "trusted comment: Test")).contains("does not fit"));
    assert!(with("").contains("not one of minisign"));
    let other = minisign::KeyPair::generate_unencrypted_keypair().expect("keys");
    assert!(with(&shelf.sign(&other, &bytes)).contains("--allow-unknown-key"));
    // The number of a trusted key does not help.
    let theirs = shelf.sign(&other, &bytes);
    let mut forged: Vec<u8> = decode(theirs.lines().nth(1).expect("a line"));
    forged[2..10].copy_from_slice(shelf.keys.pk.keynum());
    let text = theirs.replace(theirs.lines().nth(1).expect("a line"), &encode(&forged));
    assert!(with(&text).contains("does not fit"));
    // With the right one all is well.
    std::fs::write(&path, right).expect("written");
    open(&located, &policy).expect("taken");
}

fn decode(line: &str) -> Vec<u8> {
    base64::Engine::decode(&base64::prelude::BASE64_STANDARD, line).expect("base64")
}

fn encode(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes)
}

#[test]
fn what_is_refused_is_taken_only_with_its_own_flag() {
    type Change = fn(&mut Fixture, &mut Policy);
    type Flag = fn(&mut Policy);
    let nothing: Change = |_, _| {};
    let cases: [(Change, bool, Flag, &str); 5] = [
        (
            nothing,
            false,
            |policy| policy.allow.unsigned = true,
            "--allow-unsigned",
        ),
        (
            |_, policy| policy.trusted = super::signature::TrustedKeys::default(),
            true,
            |policy| policy.allow.unknown_key = true,
            "--allow-unknown-key",
        ),
        (
            |fixture, _| fixture.manifest.architecture = "aarch64".to_owned(),
            true,
            |policy| policy.allow.foreign_architecture = true,
            "--allow-foreign-arch",
        ),
        (
            |fixture, _| fixture.manifest.interpreter = Some("/lib/ld-of-nobody.so".to_owned()),
            true,
            |policy| policy.allow.foreign_architecture = true,
            "--allow-foreign-arch",
        ),
        (
            |_, policy| policy.installed = Some("1.2.4-rc.1".parse().expect("a version")),
            true,
            |policy| policy.allow.downgrade = true,
            "--allow-downgrade",
        ),
    ];
    for (change, signed, flag, name) in cases {
        let shelf = Shelf::new();
        let (mut fixture, mut policy) = (Fixture::small(), shelf.policy());
        change(&mut fixture, &mut policy);
        let bytes = fixture.bytes();
        let located = if signed {
            shelf.signed(&bytes)
        } else {
            shelf.unsigned(&bytes)
        };
        let report = refused(&shelf, &located, &policy);
        assert!(report.contains(name), "{report}");
        let mut all = policy.clone();
        all.allow = super::policy::Allow {
            unsigned: true,
            unknown_key: true,
            downgrade: true,
            foreign_architecture: true,
        };
        let mut only = policy.clone();
        flag(&mut only);
        let mut others = all;
        others.allow = invert(only.allow);
        assert!(refused(&shelf, &located, &others).contains(name));
        open(&located, &only).expect(name);
    }
}

fn invert(allow: super::policy::Allow) -> super::policy::Allow {
    super::policy::Allow {
        unsigned: !allow.unsigned,
        unknown_key: !allow.unknown_key,
        downgrade: !allow.downgrade,
        foreign_architecture: !allow.foreign_architecture,
    }
}

#[test]
fn versions_are_compared_as_semver_does() {
    let shelf = Shelf::new();
    let located = shelf.signed(&Fixture::small().bytes());
    let with = |installed: &str| {
        let mut policy = shelf.policy();
        policy.installed = Some(installed.parse().expect("a version"));
        open(&located, &policy)
            .map(drop)
            .map_err(|refusal| refusal.to_string())
    };
    for installed in ["1.2.3", "1.2.3+build.7", "1.2.3-rc.1", "1.2.2", "0.1.0"] {
        with(installed).expect(installed);
    }
    for installed in ["1.2.4", "1.10.0", "2.0.0-alpha"] {
        assert!(with(installed).expect_err(installed).contains("is installed"));
    }
    assert!(
        with("0.0.9")
            .expect_err("too old")
            .contains("only 0.1.0 or later")
    );
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let shelf = Shelf::new();
    let mut policy = shelf.policy();
    policy.limits = Limits {
        unpacked: 1 << 20,
        ..Limits::default()
    };
    // A file of 8 MiB, as the manifest says, or under a false name of its size, or behind the end.
    let zeros = vec![0; 8 << 20];
    let declared = Fixture::new("1.0.0", &[("bomb", &zeros)]);
    assert!(refused(&shelf, &shelf.signed(&declared.bytes()), &policy).contains("--max-size"));
    let mut hidden = declared.clone();
    hidden.manifest.files[0].size = 1;
    assert!(refused(&shelf, &shelf.signed(&hidden.bytes()), &policy).contains("the size differs"));
    hidden.entries[0].size = Some(1);
    refused(&shelf, &shelf.signed(&hidden.bytes()), &policy);
    let mut behind = Fixture::small();
    behind.inside = zeros;
    assert!(refused(&shelf, &shelf.signed(&behind.bytes()), &policy).contains("behind its end"));
    // A manifest that would fill the memory, and a file that is larger than it may be.
    let manifest = vec![b' '; usize::try_from(limits::MANIFEST).expect("small") + 1];
    let large = Fixture::small().bytes_with(&manifest);
    assert!(refused(&shelf, &shelf.signed(&large), &policy).contains("its manifest would be larger"));
    policy.limits.bundle = 100;
    let report = refused(&shelf, &shelf.signed(&Fixture::small().bytes()), &policy);
    assert!(
        report.contains("the bundle would be larger than 100 B"),
        "{report}"
    );
}

#[test]
fn a_window_that_needs_much_memory_is_refused() {
    let shelf = Shelf::new();
    let mut policy = shelf.policy();
    policy.allow.unsigned = true;
    let archive = zstd::decode_all(Fixture::small().bytes().as_slice()).expect("archive");
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.window_log(27).expect("set");
    std::io::Write::write_all(&mut encoder, &archive).expect("written");
    let bytes = encoder.finish().expect("compressed");
    assert!(refused(&shelf, &shelf.unsigned(&bytes), &policy).contains("Frame requires too much memory"));
}

#[test]
fn a_bundle_that_changes_after_it_was_checked_is_not_used() {
    let shelf = Shelf::new();
    let located = shelf.signed(&Fixture::small().bytes());
    let bundle = open(&located, &shelf.policy()).expect("taken");
    // Rewritten in place, as the file is open; also by another bundle that is good in itself.
    let mut other = Fixture::small();
    other.manifest.version = "9.9.9".parse().expect("a version");
    let mut payload = Fixture::small();
    payload.entries[0].contents[0] ^= 1;
    let before = shelf.listing();
    for bytes in [other.bytes(), payload.bytes(), Vec::new(), b"x".to_vec()] {
        std::fs::write(&located.bundle, bytes).expect("written");
        let refusal = bundle.unpack_into(&shelf.path("release")).expect_err("changed");
        assert!(
            refusal.to_string().contains("changed while it was read"),
            "{refusal}"
        );
        assert_eq!(shelf.listing(), before);
    }
    // Replaced by another file, the one that was checked is still what is used.
    std::fs::remove_file(&located.bundle).expect("removed");
    let located = shelf.signed(&Fixture::small().bytes());
    let bundle = open(&located, &shelf.policy()).expect("taken");
    std::fs::rename(&located.bundle, shelf.path("old")).expect("moved");
    std::fs::write(&located.bundle, b"something else").expect("written");
    bundle.unpack_into(&shelf.path("release")).expect("unpacked");
}

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
            // Without the signature the archive protects itself, or the flip made no difference to any file.
            let mut policy = subject.shelf.policy();
            policy.allow.unsigned = true;
            let unsigned = Located { signature: None, ..subject.located.clone() };
            if let Ok(bundle) = open(&unsigned, &policy) {
                assert_eq!(bundle.manifest(), &Fixture::small().manifest);
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
