//! Work before the daemon serves, or after it, that may take longer than systemd waits: as long as it makes progress,
//! systemd is asked for more time, and `systemctl status` says how long it has taken.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flame_systemd::notify::Notifier;

/// How long systemd waits after the last progress that was seen. Well above [`LOOK_EVERY`], so that a machine that
/// is busy for a while does not cost the daemon its start.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked for progress.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Where the kernel says how much this process has computed.
const STAT: &str = "/proc/self/stat";
/// Places of the ticks in user and kernel mode in it, from 0 behind the name.
const TICKS: [usize; 2] = [11, 12];

/// Work under way. Dropping it ends the requests for time.
#[derive(Debug)]
pub struct LongWork {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LongWork {
    /// Work begins that can be told as `doing`.
    ///
    /// Reading, writing and computing all take CPU time of this process, and while it waits for a lock or for a disk
    /// that does not answer, it takes none: then no more time is asked for, and systemd ends what hangs.
    #[must_use]
    pub fn begin(notifier: Notifier, doing: String) -> Self {
        notifier.status(&doing);
        notifier.extend_timeout(PATIENCE);
        let (done, until) = mpsc::channel();
        let begin = Instant::now();
        let progress = move || {
            notifier.extend_timeout(PATIENCE);
            notifier.status(&format!("{doing}: {} s so far", begin.elapsed().as_secs()));
        };
        let thread = std::thread::Builder::new()
            .name("long-work".to_owned())
            .spawn(move || {
                let tick = || until.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout);
                watch(tick, ticks_of_this_process, progress);
            });
        if let Err(error) = &thread {
            tracing::warn!(%error, "systemd will not be asked for more time than it gives at first");
        }
        Self {
            done: Some(done),
            thread: thread.ok(),
        }
    }
}

impl Drop for LongWork {
    fn drop(&mut self) {
        drop(self.done.take());
        // What is said after the work must not be followed by what is said about it.
        if let Some(Err(_panic)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that asks systemd for time has panicked");
        }
    }
}

/// For as long as `tick` gives true, calls `progress` if `measure` has grown since the last look.
fn watch(
    mut tick: impl FnMut() -> bool,
    mut measure: impl FnMut() -> Option<u64>,
    mut progress: impl FnMut(),
) {
    let mut seen = measure();
    while tick() {
        let now = measure();
        if now > seen {
            progress();
        }
        seen = now;
    }
}

/// CPU time that this process has taken, in the kernel's ticks.
fn ticks_of_this_process() -> Option<u64> {
    ticks(&std::fs::read_to_string(STAT).ok()?)
}

fn ticks(stat: &str) -> Option<u64> {
    // The name of the program is in brackets and may have anything in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    TICKS
        .iter()
        .map(|place| fields.get(*place)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_asked_for_only_while_there_is_progress() {
        for (measured, expected) in [
            (
                vec![Some(1), Some(2), Some(3), Some(3), Some(3), Some(4)],
                vec![1, 2, 5],
            ),
            (vec![Some(7), Some(7), Some(7)], vec![]),
            (vec![None, None], vec![]),
            (vec![Some(1), None, Some(2)], vec![2]),
        ] {
            let mut values = measured.iter().copied();
            let (looks, mut asked) = (std::cell::Cell::new(0), Vec::new());
            let tick = || {
                looks.set(looks.get() + 1);
                looks.get() < measured.len()
            };
            watch(tick, || values.next().flatten(), || asked.push(looks.get()));
            assert_eq!(asked, expected, "{measured:?}");
        }
    }

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a ) b) R 1 7 7 0 -1 4194304 100 0 3 0 250 40 0 0 20 0 1 0 5 1 1";
        assert_eq!(ticks(stat), Some(290));
        assert_eq!(ticks("7 (a) R 1"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn this_process_computes_and_is_measured() {
        let begin = ticks_of_this_process().expect("measured");
        let limit = Instant::now() + Duration::from_secs(30);
        let mut sum = 0_u64;
        while ticks_of_this_process().expect("measured") <= begin {
            assert!(Instant::now() < limit, "nothing was measured");
            sum = (0..1_000_000).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
        }
    }
}
