//! Archives that somebody has tampered with, and what must be said about each.

use super::fixture::{Entry, Fixture};
use super::manifest::{FILE_MODE, NAME};
use crate::manifest::sha256;

/// A change of the archive that the signer did not notice, and what is said about it.
pub(super) type Case = (&'static str, fn(&mut Fixture), &'static str);

pub(super) const CASES: &[Case] = &[
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
