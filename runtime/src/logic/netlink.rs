//! Messages of route netlink: built and taken apart. Numbers are the kernel's, in its own byte
//! order.

pub(crate) const NEW_LINK: u16 = 16;
pub(crate) const GET_LINK: u16 = 18;
pub(crate) const SET_LINK: u16 = 19;
pub(crate) const NEW_ADDRESS: u16 = 20;
pub(crate) const GET_ADDRESS: u16 = 22;

const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const DUMP: u16 = 0x300;

const HEAD_BYTES: usize = 16;

pub(crate) mod link {
    pub(crate) const NAME: u16 = 3;
    pub(crate) const NAMESPACE_FD: u16 = 28;
    pub(crate) const UP: u32 = 1;
}

mod address {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const LOCAL: u16 = 2;
    pub(super) const CACHE: u16 = 6;
    pub(super) const FLAGS: u16 = 8;
    pub(super) const PERMANENT: u32 = 0x80;
    pub(super) const NO_DUPLICATE_CHECK: u32 = 0x02;
}

/// An address of a device, as the kernel told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) family: u8,
    prefix_bits: u8,
    scope: u8,
    pub(crate) index: u32,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Whether it was meant to last and to be seen from afar.
    pub(crate) fn is_kept(&self) -> bool {
        self.flags & address::PERMANENT != 0 && self.scope == 0
    }
}

fn aligned(bytes: usize) -> usize {
    bytes.div_ceil(4) * 4
}

fn message(kind: u16, flags: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut all = vec![0; HEAD_BYTES];
    all.extend_from_slice(body);
    for (number, value) in attributes {
        let length = (4 + value.len()) as u16;
        all.extend_from_slice(&length.to_ne_bytes());
        all.extend_from_slice(&number.to_ne_bytes());
        all.extend_from_slice(value);
        all.resize(aligned(all.len()), 0);
    }
    let length = all.len() as u32;
    all[0..4].copy_from_slice(&length.to_ne_bytes());
    all[4..6].copy_from_slice(&kind.to_ne_bytes());
    all[6..8].copy_from_slice(&flags.to_ne_bytes());
    all
}

/// struct ifinfomsg.
fn link_body(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

/// Switches a device on or off.
pub(crate) fn set_up(index: u32, up: bool) -> Vec<u8> {
    let flags = if up { link::UP } else { 0 };
    message(SET_LINK, REQUEST | ACK, &link_body(index, flags, link::UP), &[])
}

/// Moves a device to a network namespace, under a name.
pub(crate) fn move_to(index: u32, namespace_fd: i32, name: &str) -> Vec<u8> {
    let name = [name.as_bytes(), b"\0"].concat();
    let fd = namespace_fd.to_ne_bytes();
    message(
        SET_LINK,
        REQUEST | ACK,
        &link_body(index, 0, 0),
        &[(link::NAMESPACE_FD, &fd), (link::NAME, &name)],
    )
}

/// Asks for all devices.
pub(crate) fn list_links() -> Vec<u8> {
    message(GET_LINK, REQUEST | DUMP, &link_body(0, 0, 0), &[])
}

/// Asks for all addresses.
pub(crate) fn list_addresses() -> Vec<u8> {
    message(GET_ADDRESS, REQUEST | DUMP, &[0; 8], &[])
}

/// Gives a device an address that it had elsewhere.
pub(crate) fn add_address(one: &Address, index: u32) -> Vec<u8> {
    let mut body = [one.family, one.prefix_bits, 0, one.scope, 0, 0, 0, 0];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    // It was checked for duplicates where it was; while it is checked again it could not be used.
    let flags = (one.flags & !address::PERMANENT | address::NO_DUPLICATE_CHECK).to_ne_bytes();
    let kept = one.attributes.iter().filter(|(n, _)| ![address::CACHE, address::FLAGS].contains(n));
    let mut attributes: Vec<(u16, &[u8])> = kept.map(|(n, v)| (*n, v.as_slice())).collect();
    attributes.push((address::FLAGS, &flags));
    message(NEW_ADDRESS, REQUEST | ACK | CREATE | EXCLUSIVE, &body, &attributes)
}

/// What came in one datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An answer's body: its kind, and all that follows the head.
    Item(u16, Vec<u8>),
    /// The end; 0 is success, else an error's number.
    End(i32),
}

/// Takes a datagram apart; what is cut short ends it.
pub(crate) fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut all = Vec::new();
    while bytes.len() >= HEAD_BYTES {
        let length = number(bytes, 0) as usize;
        if length < HEAD_BYTES || length > bytes.len() {
            break;
        }
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let body = &bytes[HEAD_BYTES..length];
        all.push(match kind {
            ERROR if body.len() >= 4 => Answer::End(-(number(body, 0) as i32)),
            DONE => Answer::End(0),
            kind => Answer::Item(kind, body.to_vec()),
        });
        bytes = &bytes[aligned(length).min(bytes.len())..];
    }
    all
}

fn number(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..at + 4).map(<[u8; 4]>::try_from) {
        Some(Ok(four)) => u32::from_ne_bytes(four),
        _ => 0,
    }
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        if length < 4 || length > bytes.len() {
            break;
        }
        all.push((u16::from_ne_bytes([bytes[2], bytes[3]]), bytes[4..length].to_vec()));
        bytes = &bytes[aligned(length).min(bytes.len())..];
    }
    all
}

/// A device's index.
pub(crate) fn link_index(body: &[u8]) -> Option<u32> {
    (body.len() >= 16).then(|| number(body, 4))
}

/// An address.
pub(crate) fn address(body: &[u8]) -> Option<Address> {
    let [family, prefix_bits, flags, scope, _, _, _, _] = *body.get(..8)? else { return None };
    let attributes = attributes(&body[8..]);
    let long = attributes.iter().find(|(n, _)| *n == address::FLAGS).map(|(_, v)| number(v, 0));
    let has_one = attributes.iter().any(|(n, _)| [address::ADDRESS, address::LOCAL].contains(n));
    has_one.then(|| Address {
        family,
        prefix_bits,
        scope,
        index: number(body, 4),
        flags: long.unwrap_or(u32::from(flags)),
        attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_went() {
        fn only(datagram: &[u8]) -> (u16, Address) {
            match answers(datagram).pop() {
                Some(Answer::Item(kind, body)) => (kind, address(&body).expect("an address")),
                other => panic!("{other:?}"),
            }
        }
        let told = message(
            NEW_ADDRESS,
            0,
            &[2, 24, 0x80, 0, 7, 0, 0, 0],
            &[(1, &[10, 0, 0, 1]), (2, &[10, 0, 0, 1]), (3, b"eth0\0"), (6, &[0; 16])],
        );
        let (kind, one) = only(&told);
        assert!(kind == NEW_ADDRESS && one.is_kept() && one.index == 7);
        let (_, again) = only(&add_address(&one, 9));
        assert_eq!((again.index, again.prefix_bits, again.family), (9, 24, 2));
        assert!(again.attributes.contains(&(2, vec![10, 0, 0, 1])));
    }

    #[test]
    fn nonsense_ends_the_reading() {
        assert_eq!(answers(&[1, 2, 3]), []);
        assert_eq!(answers(&[0; 64]), []);
        let mut cut = set_up(1, true);
        cut[0] = 200;
        assert_eq!(answers(&cut), []);
        assert_eq!(address(&[2, 24]), None);
    }
}
