//! Memory that is really there: allocated, written to, and refused before it harms the node.

use std::fs;
use std::path::Path;

use flame_core::size;

/// Left free on the node, in bytes: a ping must not push its host into swapping.
const RESERVE: u64 = 64 << 20;

/// Fills `bytes` of memory and hands it over; it is given back when the answer is dropped.
///
/// # Errors
/// In words for the client, if the node or the executor's limit has not that much.
pub fn fill(bytes: u64) -> Result<Vec<u8>, String> {
    let free = available();
    let refused = || {
        format!(
            "cannot fill {} of memory: {} are available to this executor",
            size::format(bytes),
            free.map_or_else(|| "not so many bytes".to_owned(), rounded)
        )
    };
    if free.is_some_and(|free| bytes > free) {
        return Err(refused());
    }
    let length = usize::try_from(bytes).map_err(|_| refused())?;
    let mut filled = Vec::new();
    filled.try_reserve_exact(length).map_err(|_| refused())?;
    // Not zero: pages of zeros need not be there.
    filled.resize(length, 0x5a);
    Ok(filled)
}

/// Whole megabytes read better than the last byte of a number that changes all the time.
fn rounded(bytes: u64) -> String {
    size::format(bytes >> 20 << 20)
}

/// What may still be used: of the node and of every control group around the process.
fn available() -> Option<u64> {
    let node = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| meminfo(&text));
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| group_path(&text).map(str::to_owned))
        .and_then(|path| group_available(Path::new("/sys/fs/cgroup"), &path));
    [node, group]
        .into_iter()
        .flatten()
        .min()
        .map(|bytes| bytes.saturating_sub(RESERVE))
}

/// `MemAvailable` in bytes.
fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The path of the unified control group.
fn group_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// The least that the group and its parents leave.
fn group_available(root: &Path, path: &str) -> Option<u64> {
    let number = |path: &Path| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    root.join(path)
        .ancestors()
        .take_while(|directory| directory.starts_with(root))
        .filter_map(|directory| {
            // "max" is no number: no limit at this level.
            let limit = number(&directory.join("memory.max"))?;
            Some(limit.saturating_sub(number(&directory.join("memory.current"))?))
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_written_to_and_too_much_is_refused_with_both_numbers() {
        let filled = fill(3 << 20).expect("3 MiB");
        assert!(filled.len() == 3 << 20 && filled.iter().all(|byte| *byte == 0x5a));
        let error = fill(1 << 60).expect_err("more than any node has");
        assert!(error.contains("1024P") && error.contains("available"), "{error}");
        assert!(fill(u64::MAX).is_err());
    }

    #[test]
    fn the_tightest_limit_around_the_process_counts() {
        let root = tempfile::tempdir().expect("directory");
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, text).expect("written");
        };
        write("a/memory.max", "1000\n");
        write("a/memory.current", "400\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "100\n");
        write("a/b/c/memory.max", "800\n");
        write("a/b/c/memory.current", "100\n");
        assert_eq!(group_available(root.path(), "a/b/c"), Some(600));
        assert_eq!(group_available(root.path(), "x"), None);
    }

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(meminfo("MemTotal: 9 kB\nMemAvailable:   12 kB\n"), Some(12 << 10));
        assert_eq!(meminfo("MemTotal: 9 kB\n"), None);
        assert_eq!(group_path("1:cpu:/x\n0::/user.slice/a\n"), Some("user.slice/a"));
    }
}
