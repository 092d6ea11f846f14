//! How much a layer may ask of the host.

/// Bounds on one layer. Layers are hostile input: each of these has been used as a weapon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries: inodes are finite.
    pub entries: u64,
    /// Bytes of one extended header (PAX, long name).
    pub header_bytes: u64,
    /// Bytes of a path or of a link's target.
    pub path_bytes: usize,
    /// Extents of one sparse file.
    pub sparse_extents: usize,
    /// Bytes of the whole decompressed tar: a bomb ends here.
    pub total_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            header_bytes: 1 << 20,
            // The kernel's PATH_MAX, less its NUL.
            path_bytes: 4095,
            sparse_extents: 1 << 18,
            total_bytes: 256 << 30,
        }
    }
}
