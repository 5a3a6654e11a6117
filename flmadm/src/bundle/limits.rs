//! How large a bundle may be, so that a broken or a malicious one cannot fill a machine.

/// Bounds of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of the bundle's file.
    pub(crate) bundle: u64,
    /// Bytes of all its files together.
    pub(crate) unpacked: u64,
    /// Number of its files.
    pub(crate) files: usize,
}

/// Bytes of a manifest: enough for the files that a bundle may have.
pub(crate) const MANIFEST: u64 = 4 << 20;
/// Bytes of a detached signature; minisign's have some 300.
pub(crate) const SIGNATURE: u64 = 16 << 10;
/// Memory that decompression may take is two to this power: 16 MiB, twice of what [`super::write`] uses.
pub(crate) const WINDOW_LOG: u32 = 24;

impl Default for Limits {
    fn default() -> Self {
        Self {
            bundle: 1 << 30,
            // Binaries with debug information shrink to a quarter.
            unpacked: 4 << 30,
            files: 10_000,
        }
    }
}

impl Limits {
    /// The same for a bundle of another size.
    pub(crate) fn of_bundle(bytes: u64) -> Self {
        Self {
            bundle: bytes,
            unpacked: bytes.saturating_mul(4),
            ..Self::default()
        }
    }
}
