//! Lines of several nodes as one: in the order of their times as long as some node still has lines that were there
//! at the begin, then as they come. Knows no I/O.

use std::collections::VecDeque;

use flame_rpc::log_place::ReadPlace;
use flame_rpc::v1::LogLine;

/// What one node has sent, and where it is.
#[derive(Debug, Default)]
pub(super) struct Lane {
    waiting: VecDeque<LogLine>,
    /// All lines that were there at the begin have come, or are not waited for.
    pub(super) caught_up: bool,
    /// Where the lines that were taken end; nothing if the node has not even told where they begin.
    place: Option<ReadPlace>,
}

impl Lane {
    /// Of a node of which the reader has had the lines up to `place`.
    pub(super) fn after(place: Option<ReadPlace>) -> Self {
        Self {
            place,
            ..Self::default()
        }
    }

    /// The node has told where the lines begin that come. Returns whether that is news.
    pub(super) fn begins(&mut self, begin_us: i64) -> bool {
        let is_new = self.place.is_none();
        self.place.get_or_insert_with(|| ReadPlace::begin(begin_us));
        is_new
    }

    /// Lines that came.
    pub(super) fn put(&mut self, lines: Vec<LogLine>) {
        self.waiting.extend(lines);
    }

    /// Whether all lines that came were taken.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Where to go on after the lines that were taken.
    pub(super) fn place(&self) -> Option<&ReadPlace> {
        self.place.as_ref()
    }

    /// Forgets lines that were not taken: they come again.
    pub(super) fn rewind(&mut self) {
        self.waiting.clear();
    }

    fn time(&self) -> Option<i64> {
        self.waiting.front().map(|line| line.time_us)
    }

    fn take(&mut self) -> Option<LogLine> {
        let line = self.waiting.pop_front()?;
        self.place.get_or_insert_default().took(&line);
        Some(line)
    }
}

/// The next line, and the number of the lane that it is from. Nothing if one has to come first.
pub(super) fn next<'a>(lanes: impl Iterator<Item = &'a mut Lane>) -> Option<(usize, LogLine)> {
    let mut first: Option<(i64, usize, &mut Lane)> = None;
    for (number, lane) in lanes.enumerate() {
        match lane.time() {
            Some(time) if first.as_ref().is_none_or(|(earliest, ..)| time < *earliest) => {
                first = Some((time, number, lane));
            }
            Some(_) => {}
            // It may have an earlier one.
            None if !lane.caught_up => return None,
            None => {}
        }
    }
    let (_, number, lane) = first?;
    Some((number, lane.take()?))
}

#[cfg(test)]
mod tests {
    use flame_rpc::node::LogPosition;

    use super::*;

    fn lines(times: &[i64]) -> Vec<LogLine> {
        let line = |time_us: &i64| LogLine {
            time_us: *time_us,
            ..LogLine::default()
        };
        times.iter().map(line).collect()
    }

    fn taken(lanes: &mut [Lane]) -> Vec<(usize, i64)> {
        let mut taken = Vec::new();
        while let Some((lane, line)) = next(lanes.iter_mut()) {
            taken.push((lane, line.time_us));
        }
        taken
    }

    #[test]
    fn lines_come_by_their_times_and_wait_for_those_that_may_be_earlier() {
        let mut lanes = [Lane::default(), Lane::default()];
        lanes[0].put(lines(&[1, 5, 6]));
        assert_eq!(taken(&mut lanes), [], "the other one may have some of 0");
        lanes[1].put(lines(&[2, 5]));
        assert_eq!(taken(&mut lanes), [(0, 1), (1, 2), (0, 5), (1, 5)]);
        lanes[1].caught_up = true;
        assert_eq!(taken(&mut lanes), [(0, 6)]);
        lanes[0].caught_up = true;
        lanes[1].put(lines(&[3]));
        assert_eq!(taken(&mut lanes), [(1, 3)], "as they come");
    }

    #[test]
    fn a_lane_goes_on_after_what_was_taken() {
        let mut lanes = [Lane::default()];
        assert_eq!(lanes[0].place(), None);
        assert!(lanes[0].begins(1) && !lanes[0].begins(3), "once is enough");
        lanes[0].put(lines(&[1, 4, 4, 4]));
        for _ in 0..3 {
            next(lanes.iter_mut()).expect("there");
        }
        lanes[0].rewind();
        assert!(lanes[0].is_empty());
        let place = lanes[0].place().expect("known");
        assert_eq!(place.position(), Some(LogPosition { time_us: 4, seen: 2 }));
        assert_eq!(place.message("n").begin_us, 1);
    }
}
