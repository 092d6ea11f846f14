//! Mount options: words in a spec to what the kernel's two mount interfaces take.

/// Bits of `mount_setattr` and `fsmount`.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    pub(crate) const ATIME_MASK: u64 = 0x70;
    pub(crate) const RELATIME: u64 = 0;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Bits of mount(2).
pub(crate) mod ms {
    pub(crate) const RDONLY: u64 = 1;
    pub(crate) const NOSUID: u64 = 2;
    pub(crate) const NODEV: u64 = 4;
    pub(crate) const NOEXEC: u64 = 8;
    pub(crate) const SYNCHRONOUS: u64 = 16;
    pub(crate) const MANDLOCK: u64 = 64;
    pub(crate) const DIRSYNC: u64 = 128;
    pub(crate) const NOSYMFOLLOW: u64 = 256;
    pub(crate) const NOATIME: u64 = 1 << 10;
    pub(crate) const NODIRATIME: u64 = 1 << 11;
    pub(crate) const REC: u64 = 1 << 14;
    pub(crate) const SILENT: u64 = 1 << 15;
    pub(crate) const UNBINDABLE: u64 = 1 << 17;
    pub(crate) const PRIVATE: u64 = 1 << 18;
    pub(crate) const SLAVE: u64 = 1 << 19;
    pub(crate) const SHARED: u64 = 1 << 20;
    pub(crate) const RELATIME: u64 = 1 << 21;
    pub(crate) const I_VERSION: u64 = 1 << 23;
    pub(crate) const STRICTATIME: u64 = 1 << 24;
    pub(crate) const LAZYTIME: u64 = 1 << 25;
}

/// What becomes of the mount's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttributeChange {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl AttributeChange {
    pub(crate) fn is_none(self) -> bool {
        self.set == 0 && self.clear == 0
    }

    /// What becomes of a bind's own mount, which has `present` of its source. As for runc: with no
    /// word of attributes they stay; with any, those that are not named go. A user namespace may not
    /// have less than its source: what is not named stays, and what is taken off by name is refused
    /// (the error has the bits).
    pub(crate) fn of_bind(self, present: u64, user_namespace: bool) -> Result<Self, u64> {
        const LOCKED: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        if self.is_none() {
            return Ok(self);
        }
        let refused = self.clear & present & LOCKED;
        if user_namespace && refused != 0 {
            return Err(refused);
        }
        let go = if user_namespace { attr::NOSYMFOLLOW } else { LOCKED | attr::NOSYMFOLLOW };
        Ok(Self { set: self.set, clear: self.clear | go & !self.set })
    }

    fn put(&mut self, bit: u64, on: bool) {
        if on {
            self.set |= bit;
            self.clear &= !bit;
        } else {
            self.set &= !bit;
            self.clear |= bit;
        }
    }

    fn access_time(&mut self, mode: u64) {
        // The kernel wants the whole field cleared whenever it is set.
        self.clear |= attr::ATIME_MASK;
        self.set = self.set & !attr::ATIME_MASK | mode;
    }
}

/// Where mounts made later travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Propagation {
    /// One of the four bits of mount(2).
    pub(crate) kind: u64,
    pub(crate) recursive: bool,
}

/// All options of one mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// The mount itself.
    pub(crate) change: AttributeChange,
    /// The mount and all below it (`rro` and its like).
    pub(crate) deep_change: AttributeChange,
    /// Bits of the file system, in mount(2)'s numbers.
    pub(crate) superblock: u64,
    /// `bind` (false) or `rbind` (true).
    pub(crate) bind: Option<bool>,
    pub(crate) propagation: Option<Propagation>,
    /// What is on the underlying directory is copied into the new tmpfs.
    pub(crate) copy_up: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub(crate) idmap: Option<bool>,
    /// The file system's own.
    pub(crate) data: Vec<String>,
}

impl MountOptions {
    /// Reads a spec's list. A word that is no general option is the file system's.
    pub(crate) fn parse<S: AsRef<str>>(words: &[S]) -> Self {
        let mut options = Self::default();
        for word in words {
            options.take(word.as_ref());
        }
        options
    }

    fn take(&mut self, word: &str) {
        if self.take_general(word) || self.take_attribute(word, false) {
            return;
        }
        match word.strip_prefix('r') {
            Some(rest) if self.take_attribute(rest, true) => {}
            _ => self.data.push(word.to_owned()),
        }
    }

    fn take_attribute(&mut self, word: &str, deep: bool) -> bool {
        let change = if deep { &mut self.deep_change } else { &mut self.change };
        let (positive, word) = match word {
            "ro" => (true, "ro"),
            "rw" => (false, "ro"),
            other => match other.strip_prefix("no") {
                Some(rest) => (true, rest),
                None => (false, other),
            },
        };
        match word {
            "ro" => change.put(attr::RDONLY, positive),
            "suid" => change.put(attr::NOSUID, positive),
            "dev" => change.put(attr::NODEV, positive),
            "exec" => change.put(attr::NOEXEC, positive),
            "symfollow" => change.put(attr::NOSYMFOLLOW, positive),
            "diratime" => change.put(attr::NODIRATIME, positive),
            // Without its "no", each of these asks for the mode; with it, for the default.
            "atime" => change.access_time(if positive { attr::NOATIME } else { attr::RELATIME }),
            "relatime" => {
                change.access_time(if positive { attr::STRICTATIME } else { attr::RELATIME })
            }
            "strictatime" => {
                change.access_time(if positive { attr::RELATIME } else { attr::STRICTATIME })
            }
            _ => return false,
        }
        true
    }

    fn take_general(&mut self, word: &str) -> bool {
        let spread = |kind, recursive| Some(Propagation { kind, recursive });
        let (bit, on) = match word {
            "defaults" | "remount" | "async" | "nomand" | "loud" | "noiversion" | "nolazytime" => {
                let bit = match word {
                    "async" => ms::SYNCHRONOUS,
                    "nomand" => ms::MANDLOCK,
                    "loud" => ms::SILENT,
                    "noiversion" => ms::I_VERSION,
                    "nolazytime" => ms::LAZYTIME,
                    _ => 0,
                };
                (bit, false)
            }
            "sync" => (ms::SYNCHRONOUS, true),
            "dirsync" => (ms::DIRSYNC, true),
            "mand" => (ms::MANDLOCK, true),
            "silent" => (ms::SILENT, true),
            "iversion" => (ms::I_VERSION, true),
            "lazytime" => (ms::LAZYTIME, true),
            _ => {
                match word {
                    "bind" => self.bind = Some(self.bind.unwrap_or(false)),
                    "rbind" => self.bind = Some(true),
                    "private" => self.propagation = spread(ms::PRIVATE, false),
                    "rprivate" => self.propagation = spread(ms::PRIVATE, true),
                    "shared" => self.propagation = spread(ms::SHARED, false),
                    "rshared" => self.propagation = spread(ms::SHARED, true),
                    "slave" => self.propagation = spread(ms::SLAVE, false),
                    "rslave" => self.propagation = spread(ms::SLAVE, true),
                    "unbindable" => self.propagation = spread(ms::UNBINDABLE, false),
                    "runbindable" => self.propagation = spread(ms::UNBINDABLE, true),
                    "tmpcopyup" => self.copy_up = true,
                    "idmap" => self.idmap = Some(false),
                    "ridmap" => self.idmap = Some(true),
                    _ => return false,
                }
                return true;
            }
        };
        if on {
            self.superblock |= bit
        } else {
            self.superblock &= !bit
        }
        true
    }

    /// A new file system has nothing below it: what was asked for all is asked for it.
    pub(crate) fn flatten(&mut self) {
        let deep = std::mem::take(&mut self.deep_change);
        self.change.set = self.change.set & !deep.clear | deep.set;
        self.change.clear = self.change.clear & !deep.set | deep.clear;
    }

    /// Everything as bits of mount(2), for a file system that is mounted by it.
    pub(crate) fn mount_flags(&self) -> u64 {
        let set = self.change.set;
        let pairs = [
            (attr::RDONLY, ms::RDONLY),
            (attr::NOSUID, ms::NOSUID),
            (attr::NODEV, ms::NODEV),
            (attr::NOEXEC, ms::NOEXEC),
            (attr::NODIRATIME, ms::NODIRATIME),
            (attr::NOSYMFOLLOW, ms::NOSYMFOLLOW),
            (attr::NOATIME, ms::NOATIME),
            (attr::STRICTATIME, ms::STRICTATIME),
        ];
        let mut flags = self.superblock;
        for (ours, theirs) in pairs {
            if set & ours != 0 {
                flags |= theirs;
            }
        }
        if self.change.clear & attr::ATIME_MASK != 0 && set & attr::ATIME_MASK == 0 {
            flags |= ms::RELATIME;
        }
        flags
    }

    pub(crate) fn read_only(&self) -> bool {
        self.change.set & attr::RDONLY != 0
    }
}

/// The rootfs propagation words of a spec, as bits of mount(2).
pub(crate) fn root_propagation(word: &str) -> Option<u64> {
    let (recursive, word) = match word.strip_prefix('r') {
        Some(rest) => (ms::REC, rest),
        None => (0, word),
    };
    let kind = match word {
        "private" => ms::PRIVATE,
        "shared" => ms::SHARED,
        "slave" => ms::SLAVE,
        "unbindable" => ms::UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_words() {
        let o = MountOptions::parse(&["nosuid", "strictatime", "mode=755", "size=65536k"]);
        assert_eq!(o.mount_flags(), ms::NOSUID | ms::STRICTATIME);
        assert_eq!(o.data, ["mode=755", "size=65536k"]);
        let o = MountOptions::parse(&["rbind", "rprivate", "ro"]);
        assert_eq!(o.bind, Some(true));
        assert_eq!(o.propagation, Some(Propagation { kind: ms::PRIVATE, recursive: true }));
        assert!(o.read_only());
    }

    #[test]
    fn a_binds_attributes() {
        let of = |words: &[&str], present, user| {
            MountOptions::parse(words).change.of_bind(present, user).map(|c| (c.set, c.clear))
        };
        let all = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;
        assert_eq!(of(&["rbind", "rprivate"], attr::RDONLY, false), Ok((0, 0)));
        let no_suid = Ok((attr::NOSUID, all & !attr::NOSUID));
        assert_eq!(of(&["bind", "nosuid"], attr::RDONLY, false), no_suid);
        assert_eq!(of(&["bind", "rw"], attr::NODEV, false), Ok((0, all)));
        let no_suid = Ok((attr::NOSUID, attr::NOSYMFOLLOW));
        assert_eq!(of(&["bind", "nosuid"], attr::RDONLY, true), no_suid);
        assert_eq!(of(&["bind", "rw"], attr::RDONLY, true), Err(attr::RDONLY));
        assert!(of(&["bind", "rw"], attr::NODEV, true).is_ok());
    }

    #[test]
    fn the_last_word_wins() {
        let o = MountOptions::parse(&["ro", "noexec", "rw", "exec"]);
        assert_eq!(o.change, AttributeChange { set: 0, clear: attr::RDONLY | attr::NOEXEC });
        let o = MountOptions::parse(&["noatime", "strictatime"]);
        assert_eq!(o.change.set, attr::STRICTATIME);
        assert_eq!(o.change.clear & attr::ATIME_MASK, attr::ATIME_MASK);
    }

    #[test]
    fn deep_words_and_words_that_only_look_deep() {
        let o = MountOptions::parse(&["rro", "rnosuid", "relatime", "rsize=1024", "ratime"]);
        assert_eq!(o.deep_change.set, attr::RDONLY | attr::NOSUID);
        assert_eq!(o.data, ["rsize=1024"]);
        assert_eq!(o.mount_flags(), ms::RELATIME);
        let mut o = MountOptions::parse(&["rw", "rro", "nosuid"]);
        o.flatten();
        assert_eq!(o.mount_flags(), ms::RDONLY | ms::NOSUID);
    }

    #[test]
    fn root_propagation_words() {
        assert_eq!(root_propagation("rslave"), Some(ms::SLAVE | ms::REC));
        assert_eq!(root_propagation("shared"), Some(ms::SHARED));
        assert_eq!(root_propagation("rubbish"), None);
    }
}
