//! What is in a task: enough to know from its input alone what has to come out.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// How a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Succeeds,
    Fails,
    /// Kills its service.
    Poison,
    /// Never ends by itself.
    Hangs,
}

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    /// No two tasks have the same one.
    pub(super) nonce: u64,
    pub(super) length: Duration,
    pub(super) kind: Kind,
    pub(super) output_size: usize,
    /// Its client wants it cancelled.
    pub(super) cancelled: bool,
}

impl Content {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u64(self.nonce);
        bytes.put_u64(self.length.as_micros() as u64);
        bytes.put_u8(match self.kind {
            Kind::Succeeds => 0,
            Kind::Fails => 1,
            Kind::Poison => 2,
            Kind::Hangs => 3,
        });
        bytes.put_u64(self.output_size as u64);
        bytes.put_u8(u8::from(self.cancelled));
        bytes.freeze()
    }

    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut bytes = bytes.chunk();
        Some(Self {
            nonce: bytes.try_get_u64().ok()?,
            length: Duration::from_micros(bytes.try_get_u64().ok()?),
            kind: match bytes.try_get_u8().ok()? {
                0 => Kind::Succeeds,
                1 => Kind::Fails,
                2 => Kind::Poison,
                _ => Kind::Hangs,
            },
            output_size: usize::try_from(bytes.try_get_u64().ok()?).ok()?,
            cancelled: bytes.try_get_u8().ok()? != 0,
        })
    }

    /// The right answer.
    pub(super) fn output(&self) -> Bytes {
        let mut output = BytesMut::zeroed(self.output_size.max(size_of::<u64>()));
        (&mut output[..]).put_u64(self.nonce);
        output.freeze()
    }

    /// Whether `output` is the right answer.
    pub(super) fn is_answered_by(&self, output: &Bytes) -> bool {
        output.len() == self.output_size.max(size_of::<u64>()) && output.chunk().get_u64() == self.nonce
    }
}
