//! Network devices that move into the container, with their lasting addresses.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::error::{ErrorKind, Failure, Step};
use crate::logic::net_devices::NetDevice;
use crate::logic::netlink::{self, Address};
use crate::sys::netlink::{Netlink, index_of};
use crate::sys::process::open_namespace;

/// A device that is in the container now.
struct Moved<'a> {
    device: &'a NetDevice,
    /// There.
    index: u32,
}

/// Moves devices to the container whose process is `pid` and whose network `inside` reaches. What
/// was moved goes back when one can't.
pub(crate) fn move_in(devices: &[NetDevice], pid: i32, inside: &Netlink) -> Result<(), Failure> {
    let host = Netlink::open().step(|| "linux.netDevices: reach the host's network")?;
    let namespace = open_namespace(format!("/proc/{pid}/ns/net").as_ref())
        .step(|| "linux.netDevices: open the container's network namespace")?;
    let mut moved: Vec<Moved<'_>> = Vec::new();
    for device in devices {
        match move_one(device, &host, inside, &namespace) {
            Ok(index) => moved.push(Moved { device, index }),
            Err(failure) => {
                moved.iter().rev().for_each(|one| move_back(one, inside));
                return Err(failure);
            }
        }
    }
    Ok(())
}

fn move_one(
    device: &NetDevice,
    host: &Netlink,
    inside: &Netlink,
    namespace: &OwnedFd,
) -> Result<u32, Failure> {
    let at = |what: &str| format!("linux.netDevices[{:?}]: {what}", device.host_name);
    let index = index_of(&device.host_name).step(|| at("find it"))?;
    let addresses = addresses(host, index).step(|| at("read its addresses"))?;
    let before = links(inside).step(|| at("list the container's devices"))?;
    host.ask(&netlink::set_up(index, false)).step(|| at("switch it off"))?;
    let done = host.ask(&netlink::move_to(index, namespace.as_raw_fd(), &device.name));
    let done = done.step(|| at(&format!("move it to the container as {:?}", device.name)));
    let after = links(inside).step(|| at("list the container's devices"))?;
    // Neither its index nor, with a template, its name need be what they were.
    let now = after.iter().find(|index| !before.contains(index)).copied();
    let now = match (done, now) {
        (Ok(_), Some(now)) => now,
        // The kernel moves first and names then: a name that is taken is found out there.
        (Err(failure), Some(index)) => {
            move_back(&Moved { device, index }, inside);
            return Err(failure);
        }
        (Err(failure), None) => return Err(failure),
        (Ok(_), None) => {
            let text = "it is gone";
            return Err(Failure::new(ErrorKind::Internal, at("find it in the container"), text));
        }
    };
    let ready = addresses
        .iter()
        .try_for_each(|one| inside.ask(&netlink::add_address(one, now)).map(drop))
        .step(|| at("give it its addresses"))
        .and_then(|()| {
            inside.ask(&netlink::set_up(now, true)).map(drop).step(|| at("switch it on"))
        });
    ready.inspect_err(|_| move_back(&Moved { device, index: now }, inside))?;
    Ok(now)
}

/// Best effort: the failure before it is the one to report.
fn move_back(one: &Moved<'_>, inside: &Netlink) {
    let Ok(own) = open_namespace("/proc/self/ns/net".as_ref()) else { return };
    let _ = inside.ask(&netlink::set_up(one.index, false));
    let _ =
        inside.ask(&netlink::move_to(one.index, own.as_fd().as_raw_fd(), &one.device.host_name));
}

fn links(netlink: &Netlink) -> std::io::Result<Vec<u32>> {
    let items = netlink.ask(&netlink::list_links())?;
    let links = items.iter().filter(|(kind, _)| *kind == netlink::NEW_LINK);
    Ok(links.filter_map(|(_, body)| netlink::link_index(body)).collect())
}

fn addresses(netlink: &Netlink, index: u32) -> std::io::Result<Vec<Address>> {
    let items = netlink.ask(&netlink::list_addresses())?;
    let all = items.iter().filter(|(kind, _)| *kind == netlink::NEW_ADDRESS);
    let all = all.filter_map(|(_, body)| netlink::address(body));
    Ok(all.filter(|one| one.index == index && one.is_kept()).collect())
}
