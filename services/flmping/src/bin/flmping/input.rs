//! What the tasks are given, and whether what comes back is right.

use flame_core::size;
use flame_rs::Bytes;
use flmping::{Ping, Pong};

/// Payloads that differ from their neighbours, cut from one block.
const DISTINCT: usize = 4096;

/// Distance of two payloads in the block: a mix-up moves every byte, so that the first ones tell.
const STEP: usize = 16;

/// The inputs of all tasks. Clones share the data.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    kind: Kind,
    /// Whether anybody reads the text of a success.
    tell: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    /// The same for all; any output is right.
    Ping(Option<Bytes>),
    /// Random bytes, other ones for each task; the output has to be the same.
    Echo { block: Bytes, size: usize },
}

impl Inputs {
    /// All tasks do as `ping` says.
    pub(crate) fn ping(ping: Ping, tell: bool) -> Self {
        // Two numbers are always JSON.
        let input = ping.to_input().ok().flatten().map(Bytes::from);
        Self {
            kind: Kind::Ping(input),
            tell,
        }
    }

    /// Every task gets `size` bytes and has to return them.
    pub(crate) fn echo(size: usize, tell: bool) -> Self {
        let mut block = vec![0; size + DISTINCT * STEP];
        fastrand::fill(&mut block);
        Self {
            kind: Kind::Echo {
                block: block.into(),
                size,
            },
            tell,
        }
    }

    /// Bytes of one input, if they count.
    pub(crate) fn payload(&self) -> Option<usize> {
        match self.kind {
            Kind::Ping(_) => None,
            Kind::Echo { size, .. } => Some(size),
        }
    }

    /// The input of task number `number`.
    pub(crate) fn of(&self, number: u64) -> Option<Bytes> {
        match &self.kind {
            Kind::Ping(input) => input.clone(),
            Kind::Echo { block, size } => {
                let from = place(number);
                Some(block.slice(from..from + size))
            }
        }
    }

    /// What to tell of a task that succeeded with `output`.
    ///
    /// # Errors
    /// In words, if it is not the output that task number `number` has to have.
    pub(crate) fn check(&self, number: u64, output: Option<&[u8]>) -> Result<String, String> {
        let output = output.unwrap_or_default();
        if let Kind::Echo { block, size } = &self.kind {
            let sent = &block[place(number)..][..*size];
            if output != sent {
                return Err(difference(sent, output));
            }
        }
        Ok(match &self.kind {
            // Allocates nothing.
            _ if !self.tell => String::new(),
            Kind::Ping(_) => message(output),
            Kind::Echo { size, .. } => format!("returned {}", size::format(*size as u64)),
        })
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number % DISTINCT as u64).unwrap_or_default() * STEP
}

fn difference(sent: &[u8], output: &[u8]) -> String {
    if sent.len() != output.len() {
        return format!(
            "{} bytes were sent and {} came back; does the application return its input?",
            sent.len(),
            output.len()
        );
    }
    let at = sent.iter().zip(output).position(|(a, b)| a != b);
    format!(
        "the output differs from the input from byte {}",
        at.unwrap_or_default()
    )
}

/// Any application may be pinged; an answer in other words is shown as it is.
fn message(output: &[u8]) -> String {
    serde_json::from_slice::<Pong>(output).map_or_else(
        |_| String::from_utf8_lossy(output).into_owned(),
        |pong| pong.message,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_shown_and_other_answers_as_they_are() {
        assert_eq!(message(br#"{"message":"Completed"}"#), "Completed");
        assert_eq!(message(b"hello"), "hello");
        let quiet = Inputs::ping(Ping::default(), false);
        assert_eq!(quiet.of(1), None);
        assert_eq!(quiet.check(1, Some(b"hello")).as_deref(), Ok(""));
    }

    #[test]
    fn only_a_tasks_own_payload_is_right() {
        let inputs = Inputs::echo(1000, true);
        let (one, two) = (inputs.of(1).expect("data"), inputs.of(2).expect("data"));
        assert!(one.len() == 1000 && one != two);
        assert_eq!(inputs.check(1, Some(&one)).as_deref(), Ok("returned 1000"));
        assert!(
            inputs
                .check(1, Some(&two))
                .is_err_and(|text| text.contains("differs"))
        );
        assert!(
            inputs
                .check(1, Some(&one[1..]))
                .is_err_and(|text| text.contains("999 came back"))
        );
        assert!(
            inputs
                .check(1, None)
                .is_err_and(|text| text.contains("0 came back"))
        );
        let mut spoiled = one.to_vec();
        spoiled[700] ^= 1;
        assert!(
            inputs
                .check(1, Some(&spoiled))
                .is_err_and(|text| text.contains("byte 700"))
        );
    }
}
