//! What the soak test's client and service agree about: the input of each task, and the output
//! that follows from it. Whatever is killed meanwhile, a client can tell from an output whether it
//! is the right one, of the right task.

use flame_rs::Bytes;

/// The input of task `id` of `session`: both names, filled up to `size` bytes with what differs
/// from task to task, so that bytes of another task, or in another order, are noticed.
#[must_use]
pub fn input(session: &str, id: u64, size: usize) -> Bytes {
    let mut bytes = format!("{session}/{id} ").into_bytes();
    let mut state = id;
    while bytes.len() < size {
        // The step of a linear congruential generator (Knuth's MMIX).
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(size.max(1));
    Bytes::from(bytes)
}

/// Variable of the service's environment that says how long it works on each task, in milliseconds.
pub const WORK_VARIABLE: &str = "FLAME_SOAK_WORK";

/// What the service makes of an input: a function of all of its bytes.
#[must_use]
pub fn output(input: &[u8]) -> Bytes {
    input.iter().rev().map(|byte| byte ^ 0x5a).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_its_own_input_and_its_own_output() {
        let one = input("s-1", 7, 100);
        assert_eq!(one.len(), 100);
        assert!(one.starts_with(b"s-1/7 "));
        for (session, id) in [("s-1", 8), ("s-2", 7), ("s-1", 70)] {
            let other = input(session, id, 100);
            assert_ne!(one, other);
            assert_ne!(output(&one), output(&other));
        }
        assert_eq!(output(&output(&one)), one);
        assert_eq!(input("s", 1, 0).len(), 1);
    }
}
