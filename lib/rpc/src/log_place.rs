//! Where a reader is in the log of one node: brought forward by the lines that it gets, and asked for each line when the
//! log is read once more.

use std::collections::HashMap;

use crate::node::LogPosition;
use crate::v1::{LogLine, LogOutput, LogPlace, OutputPlace};

/// Executors that are kept apart. A node keeps the lines of 400 that have ended.
const MAX_EXECUTORS: usize = 1024;

/// The last line of an output, and how many of its time there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    time_us: i64,
    count: u32,
}

/// Both outputs of an executor, see [`index`].
type Outputs = [Option<Seen>; 2];

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadPlace {
    begin_us: i64,
    executors: HashMap<String, Outputs>,
}

fn index(output: LogOutput) -> usize {
    usize::from(output == LogOutput::Err)
}

fn latest(outputs: &Outputs) -> i64 {
    outputs
        .iter()
        .flatten()
        .map(|seen| seen.time_us)
        .max()
        .unwrap_or_default()
}

impl ReadPlace {
    /// Before the first line that is not older than `begin_us`, in Unix microseconds; 0 is before all.
    #[must_use]
    pub fn begin(begin_us: i64) -> Self {
        Self {
            begin_us,
            executors: HashMap::new(),
        }
    }

    /// Takes note of a line that came.
    pub fn took(&mut self, line: &LogLine) {
        if !self.executors.contains_key(&line.executor) {
            self.make_room();
            self.executors.insert(line.executor.clone(), Outputs::default());
        }
        let time_us = line.time_us;
        if let Some(outputs) = self.executors.get_mut(&line.executor) {
            let seen = &mut outputs[index(line.output())];
            *seen = Some(match *seen {
                Some(seen) if seen.time_us == time_us => Seen {
                    time_us,
                    count: seen.count.saturating_add(1),
                },
                // A clock that was set back.
                Some(seen) if seen.time_us > time_us => seen,
                _ => Seen { time_us, count: 1 },
            });
        }
    }

    /// Forgets the executor that wrote nothing for the longest time, whose lines are then too old to be wanted.
    fn make_room(&mut self) {
        if self.executors.len() < MAX_EXECUTORS {
            return;
        }
        let oldest = self.executors.iter().min_by_key(|(_, outputs)| latest(outputs));
        if let Some((executor, time)) = oldest.map(|(executor, outputs)| (executor.clone(), latest(outputs)))
        {
            self.begin_us = self.begin_us.max(time.saturating_add(1));
            self.executors.remove(&executor);
        }
    }

    /// The time of the last line of an output, if one came.
    #[must_use]
    pub fn last_of(&self, executor: &str, output: LogOutput) -> Option<i64> {
        let seen = self.executors.get(executor)?[index(output)]?;
        Some(seen.time_us)
    }

    /// The latest time of which there was a line, or where the log begins.
    #[must_use]
    pub fn latest(&self) -> i64 {
        let times = self.executors.values().map(latest);
        times.fold(self.begin_us, i64::max)
    }

    /// For agents that know one place for all outputs; nothing if no line came.
    #[must_use]
    pub fn position(&self) -> Option<LogPosition> {
        let all = || self.executors.values().flatten().flatten();
        let time_us = all().map(|seen| seen.time_us).max()?;
        let seen = all().filter(|seen| seen.time_us == time_us);
        Some(LogPosition {
            time_us,
            seen: seen.fold(0, |sum, seen| sum.saturating_add(seen.count)),
        })
    }

    /// For a message about the log of `node`.
    #[must_use]
    pub fn message(&self, node: &str) -> LogPlace {
        let outputs = self.executors.iter().flat_map(|(executor, outputs)| {
            let both = [LogOutput::Out, LogOutput::Err].into_iter().zip(outputs);
            both.filter_map(|(output, seen)| {
                seen.map(|seen| OutputPlace {
                    executor: executor.clone(),
                    output: output.into(),
                    time_us: seen.time_us,
                    seen: seen.count,
                })
            })
        });
        LogPlace {
            node: node.to_owned(),
            begin_us: self.begin_us,
            outputs: outputs.collect(),
        }
    }
}

impl From<LogPlace> for ReadPlace {
    fn from(message: LogPlace) -> Self {
        let mut place = Self::begin(message.begin_us);
        for output in message.outputs {
            let (which, seen) = (
                index(output.output()),
                Seen {
                    time_us: output.time_us,
                    count: output.seen,
                },
            );
            if !place.executors.contains_key(&output.executor) {
                place.make_room();
            }
            place.executors.entry(output.executor).or_default()[which] = Some(seen);
        }
        place
    }
}

/// Lets through the lines of a log that come after a place.
#[derive(Debug, Clone)]
pub struct After {
    place: ReadPlace,
    /// Lines of exactly the time of `place.begin_us` that are passed over, of outputs that are not in the place.
    passed: u32,
}

impl After {
    /// After that place.
    #[must_use]
    pub fn place(place: ReadPlace) -> Self {
        Self { place, passed: 0 }
    }

    /// After a position of a session manager that knows one for all outputs.
    #[must_use]
    pub fn position(position: LogPosition) -> Self {
        Self {
            place: ReadPlace::begin(position.time_us),
            passed: position.seen,
        }
    }

    /// Passes over what is older than `begin_us`, too.
    pub fn not_before(&mut self, begin_us: i64) {
        self.place.begin_us = self.place.begin_us.max(begin_us);
    }

    /// Where the log begins.
    #[must_use]
    pub fn begin_us(&self) -> i64 {
        self.place.begin_us
    }

    /// As [`ReadPlace::last_of`] and [`ReadPlace::latest`] have it.
    #[must_use]
    pub fn read(&self) -> &ReadPlace {
        &self.place
    }

    /// Whether the next line of an output is wanted. To be asked once for each, in their order.
    pub fn takes(&mut self, executor: &str, output: LogOutput, time_us: i64) -> bool {
        let outputs = self.place.executors.get_mut(executor);
        let Some(seen) = outputs.and_then(|outputs| outputs[index(output)].as_mut()) else {
            if time_us == self.place.begin_us && self.passed > 0 {
                self.passed -= 1;
                return false;
            }
            return time_us >= self.place.begin_us;
        };
        if time_us == seen.time_us && seen.count > 0 {
            seen.count -= 1;
            return false;
        }
        time_us >= seen.time_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: LogOutput = LogOutput::Out;
    const ERR: LogOutput = LogOutput::Err;

    fn line((executor, output, time_us): (&str, LogOutput, i64)) -> LogLine {
        LogLine {
            time_us,
            executor: executor.to_owned(),
            output: output.into(),
            ..LogLine::default()
        }
    }

    /// What is left of `all` for a reader that had its first lines.
    fn rest<'a>(
        all: &[(&'a str, LogOutput, i64)],
        had: usize,
        begin_us: i64,
    ) -> Vec<(&'a str, LogOutput, i64)> {
        let mut place = ReadPlace::begin(begin_us);
        all[..had].iter().for_each(|of| place.took(&line(*of)));
        let mut after = After::place(place.message("n").into());
        let mut lines = all.to_vec();
        // Another look has them by their times.
        lines.sort_by_key(|(.., time)| *time);
        lines.retain(|(executor, output, time)| after.takes(executor, *output, *time));
        lines
    }

    #[test]
    fn wherever_it_broke_off_each_line_comes_once() {
        // e1 began a line of its standard error at 2, and ended it when the others were written.
        let all = [
            ("e1", OUT, 1),
            ("e1", OUT, 4),
            ("e2", OUT, 4),
            ("e2", OUT, 4),
            ("e1", ERR, 2),
            ("e2", ERR, 2),
            ("e2", OUT, 5),
            ("", ERR, 5),
        ];
        for had in 0..=all.len() {
            let mut both = all[..had].to_vec();
            both.extend(rest(&all, had, 0));
            let (mut both, mut all) = (both, all.to_vec());
            both.sort_unstable();
            all.sort_unstable();
            assert_eq!(both, all, "after {had}");
        }
    }

    #[test]
    fn what_was_too_old_for_the_first_reading_is_so_for_the_next() {
        let all = [("e1", OUT, 1), ("e2", OUT, 3), ("e3", OUT, 4)];
        assert_eq!(rest(&all, 0, 3), all[1..]);
        let mut after = After::place(ReadPlace::begin(3));
        after.not_before(4);
        assert!(!after.takes("e1", OUT, 3) && after.takes("e1", OUT, 4));
    }

    #[test]
    fn a_manager_that_knows_one_position_is_understood() {
        let mut after = After::position(LogPosition { time_us: 5, seen: 2 });
        let taken: Vec<bool> = [3, 5, 5, 5, 6].map(|time| after.takes("e", OUT, time)).into();
        assert_eq!(taken, [false, false, false, true, true]);
        let mut place = ReadPlace::default();
        assert_eq!(place.position(), None);
        for of in [("a", OUT, 5), ("a", ERR, 5), ("b", OUT, 4), ("a", ERR, 3)] {
            place.took(&line(of));
        }
        assert_eq!(place.position(), Some(LogPosition { time_us: 5, seen: 2 }));
        assert_eq!(
            (place.latest(), place.last_of("b", OUT), place.last_of("b", ERR)),
            (5, Some(4), None)
        );
    }

    #[test]
    fn a_reading_of_years_has_its_bound() {
        let mut place = ReadPlace::begin(7);
        let executors = i64::try_from(MAX_EXECUTORS).expect("small") + 3;
        for number in 1..=executors {
            place.took(&line((&format!("e{number}"), OUT, 100 + number)));
        }
        assert_eq!(place.executors.len(), MAX_EXECUTORS);
        let mut after = After::place(place.message("").into());
        assert!(
            !after.takes("e3", OUT, 103),
            "it is forgotten, and not shown again"
        );
        assert!(!after.takes("e4", OUT, 104) && after.takes("e4", OUT, 104));
        assert!(after.takes("new", OUT, 104));
    }
}
