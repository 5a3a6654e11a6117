"""Runs on a node: makes bundles that nobody should take, without the tools that make good ones.

The arguments are a folder and the architecture. A bundle is a tar archive in one zstd frame; a frame may have
blocks that are not compressed (RFC 8878, section 3.1), so that the standard library is enough.
"""

import hashlib
import io
import json
import struct
import sys
import tarfile
from pathlib import Path

MAGIC = 0xFD2FB528
# Single segment with eight bytes for the size.
DESCRIPTOR = 0xE0
BLOCK = 128 << 10


def frame(data):
    """A zstd frame of raw blocks."""
    parts = [struct.pack("<IBQ", MAGIC, DESCRIPTOR, len(data))]
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK]
        is_last = at + BLOCK >= len(data)
        parts += [(len(block) << 3 | is_last).to_bytes(3, "little"), block]
    return b"".join(parts)


def entry(name, data, kind=tarfile.REGTYPE, link=""):
    """A header with its contents."""
    info = tarfile.TarInfo(name)
    info.mode, info.size, info.type, info.linkname = 0o755, len(data), kind, link
    if name == "manifest.json":
        info.mode = 0o644
    padding = b"\0" * (-len(data) % 512)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + padding


def manifest(architecture, files):
    """The text of a manifest of these files: path, contents, and the size that is said."""
    listed = [
        {"path": path, "mode": "0755", "size": size, "sha256": hashlib.sha256(data).hexdigest()}
        for path, data, size in files
    ]
    whole = {
        "format": 1,
        "version": "9.9.9",
        "minimum_version": "0.1.0",
        "system": "linux",
        "architecture": architecture,
        "interpreter": None,
        "glibc": None,
        "files": listed,
    }
    return json.dumps(whole).encode()


def bundle(architecture, files, entries):
    """The bytes of a bundle."""
    archive = io.BytesIO()
    archive.write(entry("manifest.json", manifest(architecture, files)))
    for one in entries:
        archive.write(one)
    archive.write(b"\0" * 1024)
    return frame(archive.getvalue())


def main(folder, architecture):
    """Writes each kind of bundle."""
    data = b"#!/bin/sh\n"
    program = "sbin/flmadm"
    good = [(program, data, len(data))]
    file = entry(program, data)
    outside = "../../../../../../etc/flame-was-here"
    bad = {
        "good": bundle(architecture, good, [file]),
        "payload": bundle(architecture, good, [entry(program, b"#!/bin/SH\n")]),
        "traversal": bundle(architecture, [(outside, data, len(data))], [entry(outside, data)]),
        "absolute": bundle(architecture, [("/etc/x", data, len(data))], [entry("/etc/x", data)]),
        "unlisted": bundle(architecture, good, [file, entry("sbin/more", data)]),
        "symlink": bundle(architecture, good, [entry(program, b"", tarfile.SYMTYPE, "/etc/passwd")]),
        "hardlink": bundle(architecture, good, [entry(program, b"", tarfile.LNKTYPE, "/etc/passwd")]),
        "huge": bundle(architecture, [(program, data, 1 << 50)], [file]),
        "foreign": bundle("s390x", good, [file]),
        "truncated": bundle(architecture, good, [file])[:-700],
        "garbage": b"this is no bundle" * 100,
        "empty": b"",
    }
    for name, contents in bad.items():
        Path(folder, f"{name}.tar.zst").write_bytes(contents)


if __name__ == "__main__":
    main(*sys.argv[1:])
