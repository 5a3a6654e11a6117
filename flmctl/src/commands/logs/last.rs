//! Which of the lines that were there at the begin are the last ones.

use std::collections::VecDeque;

use flame_rpc::v1;

/// The last lines of all nodes, each of which has sent its own last ones; everything once those are known.
pub(super) struct Last {
    /// As many as are wanted, until all have come.
    wanted: Option<usize>,
    kept: VecDeque<v1::LogLine>,
}

impl Last {
    pub(super) fn new(wanted: Option<u32>) -> Self {
        Self {
            wanted: wanted.and_then(|wanted| usize::try_from(wanted).ok()),
            kept: VecDeque::new(),
        }
    }

    /// Takes a line in, or gives it back if it is to be shown at once.
    pub(super) fn put(&mut self, line: v1::LogLine) -> Option<v1::LogLine> {
        let Some(wanted) = self.wanted else {
            return Some(line);
        };
        self.kept.push_back(line);
        if self.kept.len() > wanted {
            self.kept.pop_front();
        }
        None
    }

    /// All that were there have come: those to be shown.
    pub(super) fn caught_up(&mut self) -> VecDeque<v1::LogLine> {
        self.wanted = None;
        std::mem::take(&mut self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_last_lines_of_each_node_the_last_ones_are_shown() {
        let numbered = |number| v1::LogLine {
            time_us: number,
            ..v1::LogLine::default()
        };
        let mut last = Last::new(Some(2));
        assert!((1..=5).all(|number| last.put(numbered(number)).is_none()));
        let times: Vec<i64> = last.caught_up().iter().map(|line| line.time_us).collect();
        assert_eq!(times, [4, 5]);
        assert!(last.put(numbered(6)).is_some(), "what comes is shown as it comes");
        let mut none = Last::new(Some(0));
        assert!(none.put(numbered(1)).is_none());
        assert!(none.caught_up().is_empty());
    }
}
