//! The directories that the agent uses, each for itself alone.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flame_core::fsutil::resolve;
use flame_core::{ExecutorId, NodeName};

/// Longest path of a unix socket in bytes (`sun_path` less its final zero).
const SOCKET_PATH_MAX: usize = 107;
/// Name of the file whose lock says that a directory is in use.
const LOCK: &str = ".lock";
/// How long a lock is waited for: a child of an agent that was killed while it started the child has
/// the lock, too, until it becomes another program.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How often the lock is tried meanwhile.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);
/// Endings of what executors leave in the socket directory.
const LEFTOVERS: [&str; 2] = ["sock", "spec"];

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// An operation on a path failed.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Path {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("another node agent uses {path}; give this one its own FLAME_SOCKET_DIR and --name", path = path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// An application wants to work where it must not.
    #[error(
        "the application's working directory {path} is below none that this node allows; the administrator can \
         list it in runtime.work_directories of node-agent.toml",
        path = path.display()
    )]
    NotAllowed {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel takes no socket path of that length.
    #[error(
        "the socket path {path} has {length} bytes, but at most {SOCKET_PATH_MAX} are possible; \
         set FLAME_SOCKET_DIR to a shorter directory",
        path = path.display()
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
}

/// The agent's directories, locked for as long as this value lives.
#[derive(Debug)]
pub struct Directories {
    /// Installation directory.
    pub home: PathBuf,
    /// Sockets and specs of executors.
    pub sockets: PathBuf,
    /// Working directories of executors.
    pub work: PathBuf,
    /// What services print.
    pub logs: PathBuf,
    /// Below these an application may have its working directory; anywhere, if there are none.
    allowed: Vec<PathBuf>,
    _locks: [File; 2],
}

/// Where the environment wants the directories.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Installation directory.
    pub home: PathBuf,
    /// `FLAME_SOCKET_DIR`.
    pub sockets: Option<PathBuf>,
    /// `RUNTIME_DIRECTORY`, which systemd sets.
    pub runtime: Option<PathBuf>,
}

impl Wanted {
    /// What this process's environment says.
    #[must_use]
    pub fn from_env() -> Self {
        let path = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        // systemd joins several directories with colons; the first is the unit's main one.
        let first = |list: PathBuf| {
            let bytes = list.as_os_str().as_bytes();
            let end = bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len());
            PathBuf::from(std::ffi::OsStr::from_bytes(&bytes[..end]))
        };
        Self {
            home: flame_core::config::flame_home(),
            sockets: path("FLAME_SOCKET_DIR"),
            runtime: path("RUNTIME_DIRECTORY").map(first),
        }
    }

    fn socket_directory(&self) -> PathBuf {
        match (&self.sockets, &self.runtime) {
            (Some(sockets), _) => sockets.clone(),
            (None, Some(runtime)) => runtime.join("executors"),
            (None, None) => self.home.join("work/sockets"),
        }
    }
}

impl Directories {
    /// Makes the directories, takes their locks and clears away what an earlier run of this
    /// agent left there.
    ///
    /// # Errors
    /// [`DirectoryError`] names the path and what to do.
    pub fn prepare(wanted: &Wanted, node: &NodeName) -> Result<Self, DirectoryError> {
        let sockets =
            std::path::absolute(wanted.socket_directory()).map_err(at("find", &wanted.socket_directory()))?;
        create_private(&sockets)?;
        let socket_lock = lock(&sockets)?;
        match crate::leftovers::end(&sockets) {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "processes of an earlier run of this agent were ended"),
            Err(error) => tracing::warn!(%error, "cannot look for processes of an earlier run"),
        }
        remove_leftovers(&sockets)?;
        // A path that can never hold a name is found now and not with the first session.
        check_length(&sockets.join("executor-00000000.sock"))?;
        let below_home = wanted.home.join("work/executors").join(node.as_str());
        let work = match create_private(&below_home) {
            Ok(()) => below_home,
            Err(error) => {
                let parent = sockets.parent().unwrap_or(&sockets);
                let other = parent.join("work").join(node.as_str());
                tracing::warn!(%error, "working directories of executors are made in {}", other.display());
                create_private(&other)?;
                other
            }
        };
        let work_lock = lock(&work)?;
        empty(&work)?;
        let logs = wanted.home.join("logs/executors");
        create_private(&logs)?;
        Ok(Self {
            home: wanted.home.clone(),
            sockets,
            work,
            logs,
            allowed: Vec::new(),
            _locks: [socket_lock, work_lock],
        })
    }

    /// These, but with working directories of applications only below `allowed`, if that names some.
    #[must_use]
    pub fn allowing(self, allowed: Vec<PathBuf>) -> Self {
        Self { allowed, ..self }
    }

    /// Whether an application may have its working directory at `path`.
    ///
    /// # Errors
    /// [`DirectoryError::NotAllowed`] if the administrator has not listed it.
    pub fn allow(&self, path: &Path) -> Result<(), DirectoryError> {
        let below = |path: &Path, allowed: &Path| path.starts_with(allowed);
        let plain = !path
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        // A link that is listed may lead anywhere; one below it may not lead out. What only executors may look
        // into (the group flame-work) is their affair: their sandbox holds there, too.
        let real = resolve(path);
        let is_allowed = |allowed: &PathBuf| below(path, allowed) && below(&real, &resolve(allowed));
        if self.allowed.is_empty() || plain && self.allowed.iter().any(is_allowed) {
            return Ok(());
        }
        Err(DirectoryError::NotAllowed {
            path: path.to_path_buf(),
        })
    }

    /// Where the service of `executor` listens.
    ///
    /// # Errors
    /// [`DirectoryError::SocketPath`] if the kernel would not take the path.
    pub fn socket(&self, executor: &ExecutorId) -> Result<PathBuf, DirectoryError> {
        let path = self.sockets.join(format!("{executor}.sock"));
        check_length(&path)?;
        Ok(path)
    }

    /// Where the launcher of `executor` finds its spec.
    #[must_use]
    pub fn spec(&self, executor: &ExecutorId) -> PathBuf {
        self.sockets.join(format!("{executor}.spec"))
    }

    /// Directory for temporary files of `application`, if it can be made.
    #[must_use]
    pub fn temporary(&self, application: &str) -> Option<PathBuf> {
        let path = self.home.join("work").join(application).join("tmp");
        create_private(&path).is_ok().then_some(path)
    }
}

/// Where a service process starts.
#[derive(Debug)]
pub enum WorkingDirectory {
    /// As the application wants it: shared, so it stays.
    Shared(PathBuf),
    /// Made for one executor: removed when this value is dropped.
    Own(PathBuf),
}

impl WorkingDirectory {
    /// The application's directory if it wants one, else a new one for `executor`.
    ///
    /// # Errors
    /// The application's does not exist, or the new one cannot be made.
    pub fn prepare(
        wanted: Option<&Path>,
        directories: &Directories,
        executor: &ExecutorId,
    ) -> Result<Self, DirectoryError> {
        match wanted {
            Some(path) => {
                let entries = std::fs::read_dir(path).map(drop);
                entries.map_err(at("use the application's working directory", path))?;
                Ok(Self::Shared(path.to_path_buf()))
            }
            None => {
                let path = directories.work.join(executor.as_str());
                // Fails if it exists: whatever it is, it is not ours to delete later.
                std::fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&path)
                    .map_err(at("make the working directory", &path))?;
                Ok(Self::Own(path))
            }
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Shared(path) | Self::Own(path) => path,
        }
    }
}

impl Drop for WorkingDirectory {
    fn drop(&mut self) {
        if let Self::Own(path) = self
            && let Err(error) = std::fs::remove_dir_all(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "cannot remove the working directory {}", path.display());
        }
    }
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_path_buf();
    move |source| DirectoryError::Path { action, path, source }
}

fn check_length(path: &Path) -> Result<(), DirectoryError> {
    match path.as_os_str().len() {
        length if length > SOCKET_PATH_MAX => Err(DirectoryError::SocketPath {
            path: path.to_path_buf(),
            length,
        }),
        _ => Ok(()),
    }
}

/// Makes `path` (0700 if it is new) and checks that files can be made in it.
fn create_private(path: &Path) -> Result<(), DirectoryError> {
    let existed = path.is_dir();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(at("create the directory", parent))?;
    }
    if !existed {
        std::fs::create_dir_all(path).map_err(at("create the directory", path))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(at("set the permissions of", path))?;
    }
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| at("write into the directory", path)(error.into()))
}

fn lock(directory: &Path) -> Result<File, DirectoryError> {
    let path = directory.join(LOCK);
    let file = File::create(&path).map_err(at("create", &path))?;
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::WouldBlock) => {
                return Err(DirectoryError::Taken {
                    path: directory.to_path_buf(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(at("lock", &path)(error)),
        }
    }
}

fn remove_leftovers(directory: &Path) -> Result<(), DirectoryError> {
    for entry in std::fs::read_dir(directory).map_err(at("list", directory))? {
        let path = entry.map_err(at("list", directory))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| LEFTOVERS.contains(&ending)) {
            std::fs::remove_file(&path).map_err(at("remove the stale file", &path))?;
        }
    }
    Ok(())
}

/// Removes everything but the lock: working directories of executors that are no more.
fn empty(directory: &Path) -> Result<(), DirectoryError> {
    for entry in std::fs::read_dir(directory).map_err(at("list", directory))? {
        let path = entry.map_err(at("list", directory))?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path).map_err(at("remove the stale directory", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(home: &Path) -> Wanted {
        Wanted {
            home: home.to_path_buf(),
            ..Wanted::default()
        }
    }

    fn node() -> NodeName {
        NodeName::new("node").expect("valid")
    }

    fn executor(name: &str) -> ExecutorId {
        ExecutorId::new(name).expect("valid")
    }

    #[test]
    fn the_socket_directory_is_where_the_environment_says() {
        let mut wanted = wanted(Path::new("/home"));
        assert_eq!(wanted.socket_directory(), Path::new("/home/work/sockets"));
        wanted.runtime = Some("/run/flame".into());
        assert_eq!(wanted.socket_directory(), Path::new("/run/flame/executors"));
        wanted.sockets = Some("/s".into());
        assert_eq!(wanted.socket_directory(), Path::new("/s"));
    }

    #[test]
    fn what_an_agent_had_that_was_just_killed_is_free_soon() {
        let home = tempfile::tempdir().expect("temporary directory");
        let killed = Directories::prepare(&wanted(home.path()), &node()).expect("usable");
        // As a child has it between its fork and its exec.
        let inherited = killed._locks[0].try_clone().expect("another handle");
        drop(killed);
        let (began, beginning) = std::sync::mpsc::channel();
        let exec = std::thread::spawn(move || {
            beginning.recv().expect("the next agent starts");
            std::thread::sleep(LOCK_PATIENCE / 10);
            drop(inherited);
        });
        began.send(()).expect("it waits for this");
        Directories::prepare(&wanted(home.path()), &node()).expect("free after a moment");
        exec.join().expect("it ended");
    }

    #[test]
    fn leftovers_go_and_a_second_agent_is_refused() {
        let home = tempfile::tempdir().expect("temporary directory");
        let first = Directories::prepare(&wanted(home.path()), &node()).expect("usable");
        for directory in [&first.sockets, &first.work] {
            let mode = std::fs::metadata(directory).expect("made").permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        let error = Directories::prepare(&wanted(home.path()), &node()).expect_err("taken");
        assert!(
            error.to_string().starts_with("another node agent uses "),
            "{error}"
        );
        std::fs::write(first.sockets.join("old.sock"), "").expect("writable");
        std::fs::write(first.sockets.join("old.spec"), "").expect("writable");
        std::fs::write(first.sockets.join("kept.txt"), "").expect("writable");
        std::fs::create_dir(first.work.join("old")).expect("writable");
        drop(first);
        let second = Directories::prepare(&wanted(home.path()), &node()).expect("free again");
        assert!(!second.sockets.join("old.sock").exists() && !second.sockets.join("old.spec").exists());
        assert!(second.sockets.join("kept.txt").exists());
        assert!(!second.work.join("old").exists());
    }

    #[test]
    fn a_socket_path_that_is_too_long_says_what_to_do() {
        let home = tempfile::tempdir().expect("temporary directory");
        let directories = Directories::prepare(&wanted(home.path()), &node()).expect("usable");
        let fits = SOCKET_PATH_MAX - directories.sockets.as_os_str().len() - "/.sock".len();
        assert!(directories.socket(&executor(&"e".repeat(fits))).is_ok());
        let error = directories
            .socket(&executor(&"e".repeat(fits + 1)))
            .expect_err("one too long")
            .to_string();
        assert!(
            error.contains("108 bytes") && error.contains("FLAME_SOCKET_DIR"),
            "{error}"
        );
        let deep = home.path().join("d".repeat(100));
        let error = Directories::prepare(&wanted(&deep), &node()).expect_err("too deep");
        assert!(matches!(error, DirectoryError::SocketPath { .. }), "{error}");
    }

    #[test]
    fn own_working_directories_are_removed_and_shared_ones_stay() {
        let home = tempfile::tempdir().expect("temporary directory");
        let directories = Directories::prepare(&wanted(home.path()), &node()).expect("usable");
        let own = WorkingDirectory::prepare(None, &directories, &executor("e")).expect("made");
        let path = own.path().to_path_buf();
        std::fs::write(path.join("file"), "x").expect("writable");
        let twice = WorkingDirectory::prepare(None, &directories, &executor("e"));
        assert!(twice.is_err(), "two executors never share one");
        drop(own);
        assert!(!path.exists());
        let shared = WorkingDirectory::prepare(Some(home.path()), &directories, &executor("e"));
        drop(shared.expect("exists"));
        assert!(home.path().exists());
        let missing = Path::new("/nonexistent/dir");
        let error = WorkingDirectory::prepare(Some(missing), &directories, &executor("e"))
            .expect_err("missing")
            .to_string();
        assert!(error.contains("working directory /nonexistent/dir"), "{error}");
    }

    #[test]
    fn an_application_works_where_the_administrator_lets_it() {
        let home = tempfile::tempdir().expect("temporary directory");
        let data = home.path().join("data");
        std::fs::create_dir(&data).expect("made");
        let out = data.join("out");
        std::os::unix::fs::symlink(home.path(), &out).expect("linked");
        let directories = Directories::prepare(&wanted(home.path()), &node()).expect("usable");
        assert!(
            directories.allow(Path::new("/anywhere")).is_ok(),
            "nothing is listed"
        );
        let directories = directories.allowing(vec![data.clone()]);
        for good in [data.clone(), data.join("deeper")] {
            assert!(directories.allow(&good).is_ok(), "{}", good.display());
        }
        for bad in [
            home.path().to_path_buf(),
            home.path().join("data2"),
            data.join("../x"),
            out,
        ] {
            let error = directories.allow(&bad).expect_err("not listed").to_string();
            assert!(error.contains("runtime.work_directories"), "{error}");
        }
    }

    #[test]
    fn an_application_works_where_a_listed_link_leads_to() {
        let home = tempfile::tempdir().expect("temporary directory");
        let (data, link) = (home.path().join("data"), home.path().join("link"));
        std::fs::create_dir(&data).expect("made");
        std::os::unix::fs::symlink(&data, &link).expect("linked");
        let directories = Directories::prepare(&wanted(home.path()), &node()).expect("usable");
        let directories = directories.allowing(vec![link.clone()]);
        // The agent may not be able to see what is in it.
        for good in [link.clone(), link.join("unseen")] {
            assert!(directories.allow(&good).is_ok(), "{}", good.display());
        }
    }

    #[test]
    fn a_home_that_cannot_be_written_is_named() {
        let error = Directories::prepare(&wanted(Path::new("/proc/flame")), &node()).expect_err("no");
        assert!(error.to_string().contains("/proc/flame"), "{error}");
    }
}
