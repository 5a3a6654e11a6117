//! Results on their way to the session manager: kept until it has acknowledged them.

use std::collections::VecDeque;

use flame_rpc::node::{ResultBatch, TaskDone};
use prost::Message;

/// Results in one batch at most; more only delays the first of them.
const BATCH_RESULTS: usize = 1024;
/// Bytes from which on a batch takes no further result.
const BATCH_BYTES: usize = 1 << 20;
/// Room for what surrounds one result in a message.
const ENVELOPE: usize = 1024;
/// The answer's text beyond this many bytes is cut off: people read it.
const MESSAGE_BYTES: usize = 64 << 10;

/// All results without an acknowledgement, in the order in which they came.
#[derive(Debug)]
pub struct ResultBuffer {
    /// Largest message that the link carries, in bytes.
    limit: usize,
    /// Number of the last batch that was sealed.
    sequence: u64,
    /// Will be the next batch.
    open: Vec<TaskDone>,
    open_bytes: usize,
    /// Batches without acknowledgement.
    sealed: VecDeque<ResultBatch>,
    /// How many of `sealed` went out on the present link.
    sent: usize,
}

impl ResultBuffer {
    /// An empty buffer for a link that carries messages up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            sequence: 0,
            open: Vec::new(),
            open_bytes: 0,
            sealed: VecDeque::new(),
            sent: 0,
        }
    }

    /// The other side takes messages up to `limit` bytes; never raises the limit.
    pub fn lower_limit(&mut self, limit: usize) {
        self.limit = self.limit.min(limit);
    }

    /// Adds a result. One that the link cannot carry becomes a failure that says so.
    pub fn push(&mut self, mut result: TaskDone) {
        if let Some(message) = &mut result.message {
            truncate(message, MESSAGE_BYTES);
        }
        let mut bytes = result.encoded_len();
        if bytes.saturating_add(ENVELOPE) > self.limit {
            let output = result.output.take().map_or(0, |output| output.len());
            result.return_code = -1;
            result.message = Some(format!(
                "the task's output has {output} bytes, but a message may have at most {limit}; \
                 make it smaller, put it in the object cache, or raise cluster.limits.max_message_size",
                limit = self.limit,
            ));
            bytes = result.encoded_len();
        }
        if !self.open.is_empty() && self.open_bytes.saturating_add(bytes) > BATCH_BYTES.min(self.limit / 2) {
            self.seal();
        }
        self.open.push(result);
        self.open_bytes += bytes;
        if self.open.len() >= BATCH_RESULTS {
            self.seal();
        }
    }

    /// The next batch to send on the present link, counted as sent from now on.
    pub fn next_batch(&mut self) -> Option<ResultBatch> {
        if self.sent == self.sealed.len() {
            self.seal();
        }
        let batch = self.sealed.get(self.sent)?.clone();
        self.sent += 1;
        Some(batch)
    }

    /// Whether [`ResultBuffer::next_batch`] has one.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.sent < self.sealed.len() || !self.open.is_empty()
    }

    /// Whether there is an unsent batch to which nothing can be added.
    #[must_use]
    pub fn has_full_batch(&self) -> bool {
        self.sent < self.sealed.len()
    }

    /// Whether nothing waits for an acknowledgement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty()
    }

    /// A new link: everything without acknowledgement is to be sent again.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Lets go of all batches up to and including `sequence` and returns their results.
    pub fn acknowledge(&mut self, sequence: u64) -> Vec<TaskDone> {
        let mut released = Vec::new();
        while self
            .sealed
            .front()
            .is_some_and(|batch| batch.sequence <= sequence)
        {
            if let Some(batch) = self.sealed.pop_front() {
                released.extend(batch.results);
                self.sent = self.sent.saturating_sub(1);
            }
        }
        released
    }

    fn seal(&mut self) {
        if self.open.is_empty() {
            return;
        }
        self.sequence += 1;
        self.open_bytes = 0;
        self.sealed.push_back(ResultBatch {
            sequence: self.sequence,
            results: std::mem::take(&mut self.open),
        });
    }
}

/// Cuts `text` to at most `bytes`, at a character's edge.
fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let edge = (0..=bytes).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(edge.unwrap_or(0));
        text.push_str(" ...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(task: u64, output: usize) -> TaskDone {
        TaskDone {
            executor_id: "e".to_owned(),
            task_id: task,
            attempt: 1,
            output: Some(vec![7; output].into()),
            ..TaskDone::default()
        }
    }

    fn tasks(batch: &ResultBatch) -> Vec<u64> {
        batch.results.iter().map(|result| result.task_id).collect()
    }

    #[test]
    fn what_waits_goes_out_as_one_batch() {
        let mut buffer = ResultBuffer::new(1 << 20);
        assert!(buffer.next_batch().is_none() && buffer.is_empty());
        for task in 1..=3 {
            buffer.push(done(task, 1));
        }
        let batch = buffer.next_batch().expect("three results");
        assert_eq!((batch.sequence, tasks(&batch)), (1, vec![1, 2, 3]));
        assert!(!buffer.has_unsent() && !buffer.is_empty());
        assert!(buffer.next_batch().is_none());
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_in_order_with_its_old_number() {
        let mut buffer = ResultBuffer::new(1 << 20);
        for task in 1..=3 {
            buffer.push(done(task, 1));
            buffer.next_batch().expect("one batch each");
        }
        let released: Vec<u64> = buffer
            .acknowledge(1)
            .iter()
            .map(|result| result.task_id)
            .collect();
        assert_eq!(released, [1]);
        buffer.push(done(4, 1));
        buffer.rewind();
        let again: Vec<(u64, Vec<u64>)> = std::iter::from_fn(|| buffer.next_batch())
            .map(|batch| (batch.sequence, tasks(&batch)))
            .collect();
        assert_eq!(again, [(2, vec![2]), (3, vec![3]), (4, vec![4])]);
    }

    #[test]
    fn an_acknowledgement_covers_all_before_it_and_a_repeated_one_nothing() {
        let mut buffer = ResultBuffer::new(1 << 20);
        for task in 1..=3 {
            buffer.push(done(task, 1));
            buffer.next_batch().expect("one batch each");
        }
        assert_eq!(buffer.acknowledge(0).len(), 0);
        assert_eq!(buffer.acknowledge(2).len(), 2);
        assert_eq!(buffer.acknowledge(2).len(), 0);
        assert_eq!(buffer.acknowledge(99).len(), 1);
        assert!(buffer.is_empty());
        buffer.push(done(4, 1));
        assert_eq!(buffer.next_batch().map(|batch| batch.sequence), Some(4));
    }

    #[test]
    fn batches_are_bounded_in_number_and_bytes() {
        let mut buffer = ResultBuffer::new(64 << 20);
        for task in 0..=1024 {
            buffer.push(done(task, 1));
        }
        assert_eq!(buffer.next_batch().map(|batch| batch.results.len()), Some(1024));
        for task in 0..4 {
            buffer.push(done(task, 700 << 10));
        }
        while let Some(batch) = buffer.next_batch() {
            assert!(batch.encoded_len() <= BATCH_BYTES, "{}", batch.encoded_len());
        }
    }

    #[test]
    fn an_output_that_no_message_can_carry_fails_the_task_with_the_numbers() {
        let mut buffer = ResultBuffer::new(1 << 20);
        buffer.lower_limit(64 << 10);
        buffer.lower_limit(2 << 20);
        buffer.push(done(1, 100 << 10));
        let batch = buffer.next_batch().expect("the failure");
        let result = &batch.results[0];
        assert_eq!((result.return_code, result.output.as_ref()), (-1, None));
        let message = result.message.as_deref().expect("a reason");
        assert!(
            message.contains("102400 bytes") && message.contains("65536"),
            "{message}"
        );
        assert!(batch.encoded_len() < 64 << 10);
    }

    #[test]
    fn a_novel_as_error_message_is_cut() {
        let mut buffer = ResultBuffer::new(1 << 20);
        buffer.push(TaskDone {
            message: Some("ä".repeat(40 << 10)),
            ..TaskDone::default()
        });
        let batch = buffer.next_batch().expect("one");
        let message = batch.results[0].message.as_deref().expect("a message");
        assert!(message.len() <= MESSAGE_BYTES + 4 && message.ends_with("ä ..."));
    }
}
