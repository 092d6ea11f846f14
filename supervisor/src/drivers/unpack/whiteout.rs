//! What the names in a layer mean: entries, and the image spec's marks for what is gone.

/// What an entry's name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// An entry of this name.
    Entry(&'a [u8]),
    /// `.wh.NAME`: NAME of the layers below is gone.
    Whiteout(&'a [u8]),
    /// `.wh..wh..opq`: all that the layers below have in this folder is gone.
    Opaque,
    /// `.wh..wh.…`: AUFS's own bookkeeping, in old images.
    Ignored,
    /// A mark for a name that can't be one.
    Hostile,
}

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The meaning of the last component of a path.
pub(super) fn meaning(name: &[u8]) -> Meaning<'_> {
    if name == OPAQUE {
        return Meaning::Opaque;
    }
    match name.strip_prefix(PREFIX) {
        None => Meaning::Entry(name),
        Some(b"" | b"." | b"..") => Meaning::Hostile,
        Some(rest) if rest.starts_with(PREFIX) => Meaning::Ignored,
        Some(rest) => Meaning::Whiteout(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::{Meaning, meaning};

    #[test]
    fn the_image_specs_marks() {
        let table: [(&[u8], Meaning<'_>); 9] = [
            (b"file", Meaning::Entry(b"file")),
            (b".wh.file", Meaning::Whiteout(b"file")),
            (b".wh..wh..opq", Meaning::Opaque),
            (b".wh..wh.plnk", Meaning::Ignored),
            (b".wh..wh.aufs", Meaning::Ignored),
            (b".wh.", Meaning::Hostile),
            (b".wh..", Meaning::Hostile),
            (b".wh...", Meaning::Hostile),
            (b".wh..hidden", Meaning::Whiteout(b".hidden")),
        ];
        for (name, expected) in table {
            assert_eq!(meaning(name), expected, "{}", String::from_utf8_lossy(name));
        }
    }
}
