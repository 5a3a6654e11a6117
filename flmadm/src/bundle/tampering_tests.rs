//! Bundles that somebody has tampered with: each is refused for its own reason, and nothing is written.
//!
//! Most cases are signed by a trusted key all the same: the archive must be checked even if its signer was deceived.

use super::fixture::{Fixture, Shelf};
use super::keys::with_extension;
use super::limits::{self, Limits};
use super::open::{Located, open};
use super::policy::Policy;
use super::signature::EXTENSION;
use super::tampering_cases::CASES;

/// Opens a bundle that must be refused and says why; looks that nothing was written.
pub(super) fn refused(shelf: &Shelf, located: &Located, policy: &Policy) -> String {
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
    let cases: [(Change, bool, Flag, &str); 6] = [
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
            |fixture, policy| {
                // This test's own loader and library, of which no such version will be.
                let needs = super::elf::needs(&std::env::current_exe().expect("a path")).expect("a program");
                fixture.manifest.interpreter = needs.interpreter.or(Some("/lib/ld-of-nobody.so".to_owned()));
                fixture.manifest.glibc = Some("999.1".to_owned().try_into().expect("a version"));
                policy.machine.architecture = super::fixture::ARCHITECTURE.to_owned();
            },
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
