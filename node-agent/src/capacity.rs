//! What this machine has to offer and how it is doing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use flame_core::Resources;
use flame_core::resources::ResourceError;

/// What a file system must have free before the node counts as unhealthy, in bytes.
const LOW_DISK: u64 = 64 << 20;

/// CPUs that this process may use, all memory, and GPUs.
#[must_use]
pub fn detect() -> Resources {
    let cuda = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let present = || {
        std::fs::read_dir("/proc/driver/nvidia/gpus")
            .map_or(0, |entries| entries.filter_map(Result::ok).count())
    };
    Resources {
        cpu: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
        memory: meminfo("MemTotal"),
        gpu: gpus(cuda.as_deref(), present),
    }
}

/// `detected`, but for what `text` (`cpu=N,mem=SIZE,gpu=N`) names.
///
/// # Errors
/// [`ResourceError`] if `text` is no amount of resources.
pub fn with_overrides(detected: Resources, text: &str) -> Result<Resources, ResourceError> {
    let given: Resources = text.parse()?;
    let mut merged = detected;
    for entry in text.split(',') {
        match entry
            .split('=')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
            .as_str()
        {
            "cpu" => merged.cpu = given.cpu,
            "gpu" => merged.gpu = given.gpu,
            _ => merged.memory = given.memory,
        }
    }
    Ok(merged)
}

/// GPUs as CUDA_VISIBLE_DEVICES says: a negative number ends the list; else those `present`.
fn gpus(visible: Option<&str>, present: impl Fn() -> usize) -> u32 {
    let count = match visible {
        Some(list) => list
            .split(',')
            .map(str::trim)
            .take_while(|device| !device.is_empty() && !device.starts_with('-') && *device != "NoDevFiles")
            .count(),
        None => present(),
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Bytes of memory that new processes can get.
#[must_use]
pub fn memory_available() -> u64 {
    meminfo("MemAvailable")
}

/// 1-minute load average times 100.
#[must_use]
pub fn load_centi() -> u32 {
    parse_load(&std::fs::read_to_string("/proc/loadavg").unwrap_or_default())
}

/// Words for people where the directories' file systems are nearly full.
#[must_use]
pub fn conditions(directories: &[&Path]) -> Vec<String> {
    let mut found = Vec::new();
    for directory in directories {
        let Ok(stat) = rustix::fs::statvfs(*directory) else {
            found.push(format!("{} cannot be reached", directory.display()));
            continue;
        };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < LOW_DISK {
            let free = flame_core::size::format(free);
            found.push(format!("only {free} free for {}", directory.display()));
        }
    }
    found
}

/// The host's name as the kernel knows it.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The machine's addresses but loopback and link-local ones.
#[must_use]
pub fn addresses() -> Vec<String> {
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut found: Vec<IpAddr> = local_v4(&v4).into_iter().map(IpAddr::V4).collect();
    found.extend(global_v6(&v6).into_iter().map(IpAddr::V6));
    found.dedup();
    found.iter().map(IpAddr::to_string).collect()
}

fn meminfo(key: &str) -> u64 {
    parse_meminfo(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default(), key)
}

fn parse_meminfo(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes.saturating_mul(1024))
}

fn parse_load(text: &str) -> u32 {
    let first = text.split(' ').next().unwrap_or_default();
    let Some((whole, fraction)) = first.split_once('.') else {
        return 0;
    };
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    number(whole).saturating_mul(100).saturating_add(number(fraction))
}

/// Addresses in the kernel's routing trie that are the machine's own (`host LOCAL`).
fn local_v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last
            && !address.is_loopback()
            && !address.is_link_local()
        {
            found.push(address);
        }
    }
    // The trie lists each address in the main and in the local table.
    found.sort_unstable();
    found.dedup();
    found
}

/// Addresses of scope "global" in the kernel's list: address, index, prefix, scope, flags, name.
fn global_v6(list: &str) -> Vec<Ipv6Addr> {
    list.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let address = u128::from_str_radix(fields.next()?, 16).ok()?;
            (fields.nth(2)? == "00").then(|| Ipv6Addr::from(address))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something() {
        let found = detect();
        assert!(found.cpu >= 1 && found.memory > 1 << 20, "{found}");
        assert!(memory_available() > 0 && memory_available() <= found.memory);
        assert!(!hostname().is_empty());
    }

    #[test]
    fn only_what_is_named_is_overridden() {
        let detected = Resources {
            cpu: 8,
            memory: 16 << 30,
            gpu: 2,
        };
        for (text, expected) in [
            ("cpu=4", (4, 16 << 30, 2)),
            ("mem=8g", (8, 8 << 30, 2)),
            ("gpu=0, memory=1g", (8, 1 << 30, 0)),
        ] {
            let got = with_overrides(detected, text).expect(text);
            assert_eq!((got.cpu, got.memory, got.gpu), expected, "{text}");
        }
        assert!(with_overrides(detected, "cores=4").is_err());
    }

    #[test]
    fn gpus_are_those_that_cuda_would_use() {
        for (visible, count) in [
            (None, 3),
            (Some(""), 0),
            (Some("0"), 1),
            (Some("0,2"), 2),
            (Some("1,-1,2"), 1),
            (Some("-1"), 0),
            (Some("NoDevFiles"), 0),
            (Some("GPU-8932f937-d72c"), 1),
        ] {
            assert_eq!(gpus(visible, || 3), count, "{visible:?}");
        }
    }

    #[test]
    fn kernel_files_are_understood() {
        let text = "MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(parse_meminfo(text, "MemTotal"), 16 << 20);
        assert_eq!(parse_meminfo(text, "MemAvailable"), 2 << 20);
        assert_eq!(parse_meminfo(text, "Swap"), 0);
        assert_eq!(parse_load("0.36 0.40 0.32 1/200 3000\n"), 36);
        assert_eq!(parse_load("12.05 0.40"), 1205);
        assert_eq!(parse_load(""), 0);
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     \
                    |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n\
                    Local:\n     |-- 10.0.0.5\n        /32 host LOCAL\n";
        assert_eq!(local_v4(trie), [Ipv4Addr::new(10, 0, 0, 5)]);
        let list = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    fe80000000000000000000000000abcd 02 40 20 80     eth0\n\
                    fd000000000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(global_v6(list), ["fd00::7".parse::<Ipv6Addr>().expect("address")]);
    }

    #[test]
    fn a_directory_that_is_gone_is_a_condition() {
        let found = conditions(&[Path::new("/nonexistent")]);
        assert_eq!(found, ["/nonexistent cannot be reached"]);
    }
}
