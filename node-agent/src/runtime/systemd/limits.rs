//! From what an executor asked for to what systemd enforces.

use flame_core::Resources;
use flame_systemd::manager::Limits;

/// Microseconds of CPU time that one CPU has in each second.
const US_PER_CPU: u64 = 1_000_000;
/// Share of contended CPU time for each CPU that was asked for, and its bounds in systemd.
const WEIGHT_PER_CPU: u64 = 100;
const WEIGHTS: (u64, u64) = (1, 10_000);
/// Processes and threads of an executor. Far above what services need, and far below what all of
/// them together may have.
const TASKS: u64 = 16_384;
/// Part of the memory that is left between slowing down and killing: a service that collects garbage
/// under pressure has a chance to, one that leaks ends soon.
const HEADROOM: u64 = 32;

/// Limits of an executor with this request. Of what it did not ask for, there is no limit.
pub(super) fn of(request: &Resources, devices: Vec<(String, String)>) -> Limits {
    let asked = |amount: u64| Some(amount).filter(|amount| *amount > 0);
    let memory = asked(request.memory);
    Limits {
        memory_high: memory.map(|bytes| bytes - bytes / HEADROOM),
        memory_max: memory,
        cpu_quota_us: asked(request.cpu).map(|cpus| cpus.saturating_mul(US_PER_CPU)),
        cpu_weight: request
            .cpu
            .max(1)
            .saturating_mul(WEIGHT_PER_CPU)
            .clamp(WEIGHTS.0, WEIGHTS.1),
        tasks_max: Some(TASKS),
        devices,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_limit() {
        let request = Resources {
            cpu: 2,
            memory: 64 << 20,
            gpu: 1,
        };
        let devices = vec![("/dev/nvidia0".to_owned(), "rw".to_owned())];
        assert_eq!(
            of(&request, devices.clone()),
            Limits {
                memory_high: Some(62 << 20),
                memory_max: Some(64 << 20),
                cpu_quota_us: Some(2_000_000),
                cpu_weight: 200,
                tasks_max: Some(TASKS),
                devices,
            }
        );
    }

    #[test]
    fn what_was_not_asked_for_is_not_limited_and_nothing_overflows() {
        let nothing = of(&Resources::default(), Vec::new());
        assert_eq!(
            (
                nothing.memory_high,
                nothing.memory_max,
                nothing.cpu_quota_us,
                nothing.cpu_weight
            ),
            (None, None, None, 100)
        );
        let huge = Resources {
            cpu: u64::MAX,
            memory: u64::MAX,
            gpu: 0,
        };
        assert_eq!(of(&huge, Vec::new()).cpu_weight, 10_000);
    }
}
