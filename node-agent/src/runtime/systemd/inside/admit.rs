//! Lets one more user into a directory that is otherwise its owner's: the agent into that of a
//! service's socket. Executors share no group, so that none reaches the socket of another.

use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, setxattr};

/// Version of the list's form in extended attributes (acl(5), `linux/posix_acl_xattr.h`).
const VERSION: u32 = 2;
/// Id of entries that are for no particular user or group.
const NOBODY: u32 = u32::MAX;

const READ: u16 = 4;
const WRITE: u16 = 2;
const ENTER: u16 = 1;

/// Whom an entry is for, by the kernel's numbers.
#[derive(Clone, Copy)]
enum Tag {
    Owner = 0x01,
    User = 0x02,
    OwningGroup = 0x04,
    Mask = 0x10,
    Others = 0x20,
}

/// Lets `user` look into `directory` and use the sockets that will be made there.
///
/// # Errors
/// Those of the system call; `EOPNOTSUPP` if the file system has no access control lists.
pub fn admit(directory: &Path, user: u32) -> io::Result<()> {
    let to_look = list(user, READ | ENTER);
    // What is made in the directory inherits this, as far as the mask of its maker leaves it.
    let to_connect = list(user, READ | WRITE);
    setxattr(
        directory,
        "system.posix_acl_default",
        &to_connect,
        XattrFlags::empty(),
    )?;
    // Last, because the agent may come as soon as it can.
    setxattr(
        directory,
        "system.posix_acl_access",
        &to_look,
        XattrFlags::empty(),
    )?;
    Ok(())
}

/// A list that allows everything to the owner, `permissions` to `user`, and nothing to anybody else.
fn list(user: u32, permissions: u16) -> Vec<u8> {
    let all = READ | WRITE | ENTER;
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, allowed, id) in [
        (Tag::Owner, all, NOBODY),
        (Tag::User, permissions, user),
        (Tag::OwningGroup, 0, NOBODY),
        (Tag::Mask, permissions, NOBODY),
        (Tag::Others, 0, NOBODY),
    ] {
        bytes.extend((tag as u16).to_le_bytes());
        bytes.extend(allowed.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    /// Somebody else; whether there is such a user does not matter.
    const USER: u32 = 54_321;

    #[test]
    fn the_directory_and_its_sockets_are_for_the_owner_and_the_admitted() {
        let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory, as /run is");
        admit(directory.path(), USER).expect("lists are supported there");
        let socket = directory.path().join("instance.sock");
        let _listener = UnixListener::bind(&socket).expect("bound");
        let mut found = vec![0; 256];
        let length = rustix::fs::getxattr(&socket, "system.posix_acl_access", &mut found).expect("inherited");
        // Of a list, the group's bits of the mode are the mask.
        assert_eq!(entry(&found[..length], Tag::User), Some((READ | WRITE, USER)));
        assert_eq!(entry(&found[..length], Tag::Others), Some((0, NOBODY)));
        assert_eq!(entry(&found[..length], Tag::OwningGroup), Some((0, NOBODY)));
        let mode = std::fs::metadata(directory.path())
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o750);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let error = admit(Path::new("/nonexistent/directory"), USER).expect_err("no directory");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    fn entry(list: &[u8], tag: Tag) -> Option<(u16, u32)> {
        let number = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        list[4..]
            .chunks(8)
            .find(|entry| number(entry) == tag as u16)
            .map(|entry| {
                let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
                (number(&entry[2..]), id)
            })
    }
}
