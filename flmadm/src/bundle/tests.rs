//! Whole commands, and that what goes into a bundle comes out of it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use object::elf::{EM_AARCH64, EM_X86_64};
use serde_json::Value;

use super::fixture::{Fixture, Shelf, built, listing};
use super::manifest::BundleManifest;
use super::open::open;
use super::signature::Trust;
use super::{Created, Keys, Shown, Verified, create, keygen, show, verify};
use crate::host::fake::FakeHost;

fn run(words: &str) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let words = words.split_whitespace().map(Into::into);
    let code = crate::run(&FakeHost::new(), words, &mut out, &mut err);
    (
        code,
        String::from_utf8(out).expect("text"),
        String::from_utf8(err).expect("text"),
    )
}

fn json(words: &str) -> Value {
    let (code, out, err) = run(&format!("{words} -o json"));
    assert_eq!(code, 0, "{words}: {err}");
    serde_json::from_str(&out).expect("JSON")
}

/// Every file below `directory` with mode and contents.
fn tree(directory: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let paths = listing(directory).into_iter().filter(|path| path.is_file());
    let read = |path: &Path| {
        let mode = path.metadata().expect("there").permissions().mode() & 0o7777;
        (mode, std::fs::read(path).expect("read"))
    };
    paths
        .map(|path| {
            let below = path.strip_prefix(directory).expect("below").display().to_string();
            let contents = read(&path);
            (below, contents)
        })
        .collect()
}

#[test]
fn what_was_put_in_comes_out() {
    let shelf = Shelf::new();
    let fixture = Fixture::small();
    let bundle = open(&shelf.signed(&fixture.bytes()), &shelf.policy()).expect("taken");
    assert_eq!(bundle.version().to_string(), "1.2.3");
    assert!(matches!(bundle.trust(), Trust::Signed { from, .. } if from == "the shelf"));
    let release = shelf.path("release");
    bundle.unpack_into(&release).expect("unpacked");
    let expected: BTreeMap<String, (u32, Vec<u8>)> = fixture
        .entries
        .iter()
        .map(|entry| (entry.path.clone(), (entry.mode, entry.contents.clone())))
        .collect();
    assert_eq!(tree(&release), expected);
    for directory in listing(&release)
        .into_iter()
        .filter(|path| path.is_dir())
        .chain([release.clone()])
    {
        let mode = directory.metadata().expect("there").permissions().mode() & 0o7777;
        assert_eq!(mode, 0o755, "{}", directory.display());
    }
    // What is there is never written over.
    let refusal = bundle.unpack_into(&release).expect_err("there already");
    assert!(refusal.to_string().contains("cannot write"), "{refusal}");
    assert_eq!(tree(&release), expected);
}

#[test]
fn a_release_that_cannot_be_written_leaves_nothing() {
    let shelf = Shelf::new();
    let bundle = open(&shelf.signed(&Fixture::small().bytes()), &shelf.policy()).expect("taken");
    let before = shelf.listing();
    bundle
        .unpack_into(&shelf.path("no/such/place"))
        .expect_err("no place");
    assert_eq!(shelf.listing(), before);
}

#[test]
fn a_bundle_is_made_checked_and_shown() {
    let shelf = Shelf::new();
    let (programs, key) = (shelf.path("built"), shelf.path("flame.key"));
    built(&programs, EM_X86_64);
    let wheel = shelf.path("flamepy-1.0.0-py3-none-any.whl");
    std::fs::write(&wheel, b"PK\x03\x04 and more").expect("written");
    let keys = json(&format!(
        "flmadm bundle keygen --no-password --out {}",
        key.display()
    ));
    let made = json(&format!(
        "flmadm bundle create --bin-dir {} --out {} --wheel {} --sign {} --release-version 7.0.0",
        programs.display(),
        shelf.directory.path().display(),
        wheel.display(),
        key.display()
    ));
    let bundle = shelf.path("flame-7.0.0-x86_64.tar.zst");
    assert_eq!(made["bundle"], bundle.display().to_string());
    assert_eq!(made["key_id"], keys["key_id"]);
    let base = format!(
        "flmadm bundle verify {} --prefix {}",
        bundle.display(),
        shelf.path("flame").display()
    );
    let base = match std::env::consts::ARCH {
        "x86_64" => base,
        _ => format!("{base} --allow-foreign-arch"),
    };
    let (code, _, err) = run(&base);
    assert_eq!(code, 1);
    assert!(err.contains("--allow-unknown-key"), "{err}");
    let by_file = json(&format!(
        "{base} --key {}",
        keys["public_key"].as_str().expect("a path")
    ));
    let by_text = json(&format!(
        "{base} --public-key {}",
        keys["public_key_text"].as_str().expect("a key")
    ));
    assert_eq!(by_file["sha256"], made["sha256"]);
    assert_eq!(by_text["trust"]["state"], "signed");
    let shown = json(&format!("flmadm bundle show {}", bundle.display()));
    assert_eq!(shown["key_id"], keys["key_id"]);
    let manifest: BundleManifest = serde_json::from_value(shown["manifest"].clone()).expect("a manifest");
    assert_eq!(manifest.architecture, "x86_64");
    let paths: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    for path in [
        "bin/flame-session-manager",
        "sbin/flmadm",
        "sdk/flamepy-1.0.0-py3-none-any.whl",
        "share/doc/LICENSE",
        "share/man/man8/flmadm.8",
        "share/bash-completion/completions/flmadm",
        "units/polkit-1/rules.d/50-flame.rules",
    ] {
        assert!(paths.contains(&path), "{path}");
    }
    let (code, _, err) = run(&format!("{base} --max-size 1kB"));
    assert_eq!(code, 1);
    assert!(err.contains("would be larger than"), "{err}");
}

#[test]
fn the_same_contents_make_the_same_bytes() {
    let shelf = Shelf::new();
    let programs = shelf.path("built");
    built(&programs, EM_X86_64);
    let make = |name: &str| {
        let out = shelf.path(name);
        std::fs::create_dir(&out).expect("made");
        let made = json(&format!(
            "flmadm bundle create --bin-dir {} --out {}",
            programs.display(),
            out.display()
        ));
        std::fs::read(made["bundle"].as_str().expect("a path")).expect("read")
    };
    let first = make("first");
    // Made anew at another time with another mode, they are the same contents.
    built(&programs, EM_X86_64);
    let program = programs.join("flmctl");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).expect("set");
    std::fs::File::options()
        .append(true)
        .open(&program)
        .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
        .expect("set");
    assert!(first == make("second"));
    std::fs::write(&program, std::fs::read(programs.join("flmping")).expect("read")).expect("written");
    assert!(first != make("third"));
}

#[test]
fn what_cannot_be_made_into_a_bundle_is_named() {
    let shelf = Shelf::new();
    let programs = shelf.path("built");
    built(&programs, EM_X86_64);
    let base = format!(
        "flmadm bundle create --bin-dir {} --out {}",
        programs.display(),
        shelf.directory.path().display()
    );
    let bad = shelf.path("bad.whl");
    std::fs::write(&bad, b"no zip").expect("written");
    for (more, code, part) in [
        (format!("--wheel {}", bad.display()), 1, "is not a wheel"),
        (
            format!("--wheel {}", shelf.path("none.whl").display()),
            1,
            "cannot be read",
        ),
        (
            format!("--wheel {}", programs.join("flmctl").display()),
            1,
            "is not named as a wheel",
        ),
        (
            format!("--out {}", shelf.path("no/place/x.tar.zst").display()),
            3,
            "no/place",
        ),
        (
            format!("--out {}", shelf.path("x.zip").display()),
            1,
            "no name of a bundle",
        ),
        (format!("--sign {}", shelf.path("no.key").display()), 3, "no.key"),
        ("--release-version 1.0".to_owned(), 1, ""),
        (
            "--release-version 1.0.0 --minimum-version 1.0.1".to_owned(),
            1,
            "--minimum-version 1.0.1 is above",
        ),
        (
            format!("--bin-dir {}", shelf.directory.path().display()),
            2,
            "has no flame-session-manager",
        ),
    ] {
        // The last of two options with one name would be an error of its own.
        let words = match more.split_once(' ') {
            Some(("--out", _)) => format!("{} {more}", base.split(" --out").next().expect("a part")),
            Some(("--bin-dir", _)) => format!("flmadm bundle create {more}"),
            _ => format!("{base} {more}"),
        };
        let (found, _, err) = run(&words);
        assert_eq!(found, code, "{words}: {err}");
        assert!(err.contains(part), "{words}: {err}");
    }
    built(&programs.join("other"), EM_AARCH64);
    std::fs::copy(programs.join("other/flmctl"), programs.join("flmctl")).expect("copied");
    let (code, _, err) = run(&base);
    assert_eq!(code, 2);
    assert!(err.contains("flmctl is for another machine"), "{err}");
    std::fs::write(programs.join("flmctl"), "#!/bin/sh\n").expect("written");
    let (code, _, err) = run(&base);
    assert_eq!(code, 2);
    assert!(err.contains("not a 64-bit program"), "{err}");
    let left = listing(shelf.directory.path());
    assert!(
        !left
            .iter()
            .any(|path| path.display().to_string().contains(".tar.zst")),
        "{left:?}"
    );
}

#[test]
fn what_is_printed_for_people_is_the_golden_text() {
    let manifest = Fixture::small().manifest;
    let sha256 = "5c1d".repeat(16);
    let key_id = Some("E7620F1842B4E81F".to_owned());
    let created = |signed: bool| Created {
        bundle: "flame-1.2.3-x86_64.tar.zst".into(),
        signature: signed.then(|| "flame-1.2.3-x86_64.tar.zst.minisig".into()),
        key_id: key_id.clone().filter(|_| signed),
        version: "1.2.3".to_owned(),
        architecture: "x86_64".to_owned(),
        files: 41,
        size: 31 << 20,
        unpacked_size: 104 << 20,
        sha256: sha256.clone(),
    };
    let verified = |trust: Trust, installed: Option<&str>| Verified {
        bundle: "https://example.com/flame-1.2.3-x86_64.tar.zst".to_owned(),
        version: "1.2.3".to_owned(),
        minimum_version: "0.1.0".to_owned(),
        installed: installed.map(str::to_owned),
        architecture: "x86_64".to_owned(),
        trust,
        files: 41,
        size: 31 << 20,
        unpacked_size: 104 << 20,
        sha256: sha256.clone(),
    };
    let signed = Trust::Signed {
        key_id: "E7620F1842B4E81F".to_owned(),
        from: "/usr/local/flame/conf/trusted-keys/flame.pub".to_owned(),
        comment: "file:flame-1.2.3-x86_64.tar.zst\tflame 1.2.3 for x86_64".to_owned(),
    };
    let unknown = Trust::UnknownKey {
        key_id: "E7620F1842B4E81F".to_owned(),
    };
    let keys = Keys {
        secret_key: "flame.key".into(),
        public_key: "flame.key.pub".into(),
        key_id: "E7620F1842B4E81F".to_owned(),
        public_key_text: "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3".to_owned(),
    };
    let shown = Shown {
        bundle: "flame-1.2.3-x86_64.tar.zst".to_owned(),
        key_id: key_id.clone(),
        manifest,
    };
    for (name, lines) in [
        ("create", create::lines(&created(true))),
        ("create-unsigned", create::lines(&created(false))),
        ("verify", verify::lines(&verified(signed, Some("1.2.2")))),
        ("verify-unknown-key", verify::lines(&verified(unknown, None))),
        ("verify-unsigned", verify::lines(&verified(Trust::Unsigned, None))),
        ("show", show::lines(&shown)),
        ("keygen", keygen::lines(&keys)),
    ] {
        crate::golden::check(&format!("bundle/{name}.txt"), &(lines.join("\n") + "\n"));
    }
}
