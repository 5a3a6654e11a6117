//! Which GPUs of the node an executor gets: what it sees of them, and which devices it may open.

use std::path::Path;

/// What the driver tells about its GPUs, a directory for each.
pub(super) const DRIVER: &str = "/proc/driver/nvidia/gpus";
/// Devices that all GPUs share.
const SHARED: [&str; 3] = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"];
/// How devices are used.
const READ_WRITE: &str = "rw";

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gpu {
    /// The driver's name, `GPU-...`: unlike a number it means the same whatever else can be seen.
    uuid: String,
    /// Number of its device file.
    minor: u32,
}

/// The GPUs of the node, and which are in use.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    all: Vec<Gpu>,
    used: Vec<bool>,
}

impl Gpus {
    /// The GPUs that the `driver` has, restricted to those that `visible` (`CUDA_VISIBLE_DEVICES` of the agent)
    /// names.
    pub(super) fn detect(driver: &Path, visible: Option<&str>) -> Self {
        let Ok(entries) = std::fs::read_dir(driver) else {
            return Self::default();
        };
        let mut directories: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        // The names are bus addresses: the order of CUDA_DEVICE_ORDER=PCI_BUS_ID.
        directories.sort();
        let present: Vec<Gpu> = directories
            .iter()
            .filter_map(|directory| std::fs::read_to_string(directory.join("information")).ok())
            .filter_map(|text| parse(&text))
            .collect();
        Self::of(match visible {
            Some(list) => restrict(&present, list),
            None => present,
        })
    }

    fn of(all: Vec<Gpu>) -> Self {
        let used = vec![false; all.len()];
        Self { all, used }
    }

    /// Takes `count` GPUs, the first that are free; `None` if there are fewer.
    pub(super) fn take(&mut self, count: u32) -> Option<Vec<Gpu>> {
        let count = usize::try_from(count).ok()?;
        let free: Vec<usize> = (0..self.all.len())
            .filter(|n| !self.used.get(*n).copied().unwrap_or(true))
            .take(count)
            .collect();
        if free.len() < count {
            return None;
        }
        let taken = free.iter().filter_map(|n| self.all.get(*n).cloned()).collect();
        for n in free {
            if let Some(used) = self.used.get_mut(n) {
                *used = true;
            }
        }
        Some(taken)
    }

    /// Takes the GPUs with these names, as far as they are there: a running executor has them.
    pub(super) fn take_these(&mut self, uuids: &[String]) -> Vec<Gpu> {
        let mut taken = Vec::new();
        for (gpu, used) in self.all.iter().zip(&mut self.used) {
            if uuids.contains(&gpu.uuid) {
                *used = true;
                taken.push(gpu.clone());
            }
        }
        taken
    }

    pub(super) fn free(&mut self, gpus: &[Gpu]) {
        for (gpu, used) in self.all.iter().zip(&mut self.used) {
            if gpus.contains(gpu) {
                *used = false;
            }
        }
    }
}

/// Names of `gpus`, to be recorded.
pub(super) fn names(gpus: &[Gpu]) -> Vec<String> {
    gpus.iter().map(|gpu| gpu.uuid.clone()).collect()
}

/// The variables by which CUDA finds `gpus`, and only these. None at all are seen without GPUs.
pub(super) fn variables(gpus: &[Gpu]) -> Vec<(String, String)> {
    vec![("CUDA_VISIBLE_DEVICES".to_owned(), names(gpus).join(","))]
}

/// What an executor with `gpus` may open.
pub(super) fn devices(gpus: &[Gpu]) -> Vec<(String, String)> {
    if gpus.is_empty() {
        return Vec::new();
    }
    let own = gpus.iter().map(|gpu| format!("/dev/nvidia{}", gpu.minor));
    own.chain(SHARED.map(str::to_owned))
        .map(|device| (device, READ_WRITE.to_owned()))
        .collect()
}

/// Reads the driver's description of a GPU.
fn parse(information: &str) -> Option<Gpu> {
    let field = |name: &str| {
        information.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    Some(Gpu {
        uuid: field("GPU UUID")?.to_owned(),
        minor: field("Device Minor")?.parse().ok()?,
    })
}

/// Those of `present` that `list` names by number or (abbreviated) UUID; like CUDA, it ends at the first that
/// is not there.
fn restrict(present: &[Gpu], list: &str) -> Vec<Gpu> {
    list.split(',')
        .map(str::trim)
        .map_while(|name| match name.parse::<usize>() {
            Ok(number) => present.get(number),
            Err(_) if name.is_empty() => None,
            Err(_) => present.iter().find(|gpu| gpu.uuid.starts_with(name)),
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(gpus: &[(&str, &str, u32)]) -> tempfile::TempDir {
        let driver = tempfile::tempdir().expect("temporary directory");
        for (address, uuid, minor) in gpus {
            let directory = driver.path().join(address);
            std::fs::create_dir(&directory).expect("made");
            let text = format!(
                "Model: \t\t NVIDIA A100\nIRQ:   \t\t 44\nGPU UUID: \t {uuid}\nBus Location: \t {address}\n\
                 Device Minor: \t {minor}\nGPU Excluded:\t No\n"
            );
            std::fs::write(directory.join("information"), text).expect("written");
        }
        driver
    }

    fn three() -> tempfile::TempDir {
        driver(&[
            ("0000:81:00.0", "GPU-c", 0),
            ("0000:01:00.0", "GPU-a", 2),
            ("0000:41:00.0", "GPU-b", 1),
        ])
    }

    #[test]
    fn an_executor_gets_its_own_gpus_and_no_others() {
        let driver = three();
        let mut gpus = Gpus::detect(driver.path(), None);
        let first = gpus.take(2).expect("three are free");
        assert_eq!(
            variables(&first),
            [("CUDA_VISIBLE_DEVICES".to_owned(), "GPU-a,GPU-b".to_owned())]
        );
        let opened: Vec<String> = devices(&first).into_iter().map(|device| device.0).collect();
        assert_eq!(
            opened,
            [
                "/dev/nvidia2",
                "/dev/nvidia1",
                "/dev/nvidiactl",
                "/dev/nvidia-uvm",
                "/dev/nvidia-uvm-tools"
            ]
        );
        assert_eq!(gpus.take(2), None, "one is left, and stays free");
        let second = gpus.take(1).expect("one is free");
        assert_eq!(names(&second), ["GPU-c"]);
        gpus.free(&first);
        assert_eq!(
            names(&gpus.take_these(&["GPU-b".to_owned(), "GPU-x".to_owned()])),
            ["GPU-b"]
        );
        assert_eq!(names(&gpus.take(1).expect("one is free")), ["GPU-a"]);
    }

    #[test]
    fn without_a_request_nothing_is_seen_and_nothing_can_be_opened() {
        let mut gpus = Gpus::default();
        let none = gpus.take(0).expect("nothing is always there");
        assert_eq!(
            variables(&none),
            [("CUDA_VISIBLE_DEVICES".to_owned(), String::new())]
        );
        assert_eq!(devices(&none), []);
        assert_eq!(gpus.take(1), None);
    }

    #[test]
    fn the_agents_own_list_restricts_what_it_hands_out() {
        let driver = three();
        for (visible, expected) in [
            ("2,0", vec!["GPU-c", "GPU-a"]),
            ("GPU-b", vec!["GPU-b"]),
            ("1,7,0", vec!["GPU-b"]),
            ("-1", vec![]),
            ("", vec![]),
        ] {
            let gpus = Gpus::detect(driver.path(), Some(visible));
            assert_eq!(names(&gpus.all), expected, "{visible}");
        }
        assert_eq!(Gpus::detect(Path::new("/nonexistent"), None).all, []);
    }
}
