//! What is said to criu and by it: its own protocol buffers (images/rpc.proto), as far as checkpoint
//! and restore need them.

/// A message being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number as u8 & 0x7f) | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// A number, or a truth, or one of an enum.
    pub(crate) fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    pub(crate) fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    pub(crate) fn text(&mut self, field: u64, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    pub(crate) fn message(&mut self, field: u64, value: &Message) {
        self.bytes(field, &value.0);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Numbers of `criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
}

/// Numbers of `criu_opts`.
pub(crate) mod option {
    pub(crate) const IMAGES_DIR_FD: u64 = 1;
    pub(crate) const PID: u64 = 2;
    pub(crate) const LEAVE_RUNNING: u64 = 3;
    pub(crate) const EXT_UNIX_SK: u64 = 4;
    pub(crate) const TCP_ESTABLISHED: u64 = 5;
    pub(crate) const EVASIVE_DEVICES: u64 = 6;
    pub(crate) const SHELL_JOB: u64 = 7;
    pub(crate) const FILE_LOCKS: u64 = 8;
    pub(crate) const LOG_LEVEL: u64 = 9;
    pub(crate) const LOG_FILE: u64 = 10;
    pub(crate) const PAGE_SERVER: u64 = 11;
    pub(crate) const NOTIFY_SCRIPTS: u64 = 12;
    pub(crate) const ROOT: u64 = 13;
    pub(crate) const PARENT_IMG: u64 = 14;
    pub(crate) const TRACK_MEM: u64 = 15;
    pub(crate) const AUTO_DEDUP: u64 = 16;
    pub(crate) const WORK_DIR_FD: u64 = 17;
    pub(crate) const LINK_REMAP: u64 = 18;
    pub(crate) const EXT_MNT: u64 = 23;
    pub(crate) const MANAGE_CGROUPS: u64 = 24;
    pub(crate) const CG_ROOT: u64 = 25;
    pub(crate) const RST_SIBLING: u64 = 26;
    pub(crate) const INHERIT_FD: u64 = 27;
    pub(crate) const MANAGE_CGROUPS_MODE: u64 = 34;
    pub(crate) const EXTERNAL: u64 = 37;
    pub(crate) const EMPTY_NS: u64 = 38;
    pub(crate) const JOIN_NS: u64 = 39;
    pub(crate) const FREEZE_CGROUP: u64 = 44;
    pub(crate) const TCP_SKIP_IN_FLIGHT: u64 = 46;
    pub(crate) const LAZY_PAGES: u64 = 48;
    pub(crate) const ORPHAN_PTS_MASTER: u64 = 50;
    pub(crate) const CONFIG_FILE: u64 = 51;
    pub(crate) const LSM_PROFILE: u64 = 53;
    pub(crate) const LSM_MOUNT_CONTEXT: u64 = 63;
}

/// A pair of texts (`ext_mount_map`, `join_namespace`, `cgroup_root`).
pub(crate) fn pair(first: &str, second: &str) -> Message {
    let mut message = Message::default();
    message.text(1, first);
    message.text(2, second);
    message
}

/// `inherit_fd`, `criu_page_server_info`.
pub(crate) fn text_and_number(text: &str, number: u64) -> Message {
    let mut message = Message::default();
    message.text(1, text);
    message.number(2, number);
    message
}

/// A whole request.
pub(crate) fn request(kind: RequestKind, options: &Message) -> Vec<u8> {
    let mut message = Message::default();
    message.number(1, kind as u64);
    message.message(2, options);
    message.into_bytes()
}

/// The word that a notification was dealt with.
pub(crate) fn notified() -> Vec<u8> {
    let mut message = Message::default();
    message.number(1, RequestKind::Notify as u64);
    message.number(3, 1);
    message.into_bytes()
}

/// What criu says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) kind: u64,
    pub(crate) success: bool,
    pub(crate) restored_pid: i32,
    pub(crate) script: String,
    pub(crate) script_pid: i32,
    pub(crate) errno: i32,
    pub(crate) error: String,
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (part, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Field::Bytes(part)
            }
            1 => {
                bytes = bytes.get(8..)?;
                continue;
            }
            5 => {
                bytes = bytes.get(4..)?;
                continue;
            }
            _ => return None,
        };
        all.push((key >> 3, value));
    }
    Some(all)
}

impl Response {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut response = Self::default();
        for (field, value) in fields(bytes)? {
            match (field, value) {
                (1, Field::Number(kind)) => response.kind = kind,
                (2, Field::Number(yes)) => response.success = yes != 0,
                (4, Field::Bytes(part)) => {
                    for (field, value) in fields(part)? {
                        if let (1, Field::Number(pid)) = (field, value) {
                            response.restored_pid = pid as i32;
                        }
                    }
                }
                (5, Field::Bytes(part)) => {
                    for (field, value) in fields(part)? {
                        match (field, value) {
                            (1, Field::Bytes(text)) => {
                                response.script = String::from_utf8_lossy(text).into_owned();
                            }
                            (2, Field::Number(pid)) => response.script_pid = pid as i32,
                            _ => {}
                        }
                    }
                }
                (7, Field::Number(errno)) => response.errno = errno as i32,
                (9, Field::Bytes(text)) => {
                    response.error = String::from_utf8_lossy(text).into_owned();
                }
                _ => {}
            }
        }
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_read_and_rubbish_is_refused() {
        let mut notify = Message::default();
        notify.text(1, "post-restore");
        notify.number(2, 4711);
        let mut message = Message::default();
        message.number(1, 6);
        message.number(2, 1);
        message.message(5, &notify);
        let bytes = message.into_bytes();
        let response = Response::parse(&bytes).expect("whole");
        assert_eq!((response.kind, response.success), (6, true));
        assert_eq!((response.script.as_str(), response.script_pid), ("post-restore", 4711));
        for end in 0..bytes.len() {
            let _ = Response::parse(&bytes[..end]);
        }
        assert_eq!(Response::parse(&[0xff; 12]), None);
        assert_eq!(Response::parse(&[0x12, 0x7f, 1]), None);
    }
}
