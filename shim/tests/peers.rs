//! Callers that break the protocol, leave in the middle or do not read: an error or the end of
//! their connection, and nothing for anybody else.

mod support;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use support::{Client, Container, Nothing, World, wait_for};
use wharf_proto::shim as wharf;
use wharf_proto::task;
use wharf_proto::ttrpc::{FrameType, HEADER_LEN, Header, MAX_DATA_LEN};

fn send(client: &mut Client, len: u32, stream: u32, number: u8, data: &[u8]) {
    let mut head = [0; HEADER_LEN];
    head[..4].copy_from_slice(&len.to_be_bytes());
    head[4..8].copy_from_slice(&stream.to_be_bytes());
    head[8] = number;
    client.socket.write_all(&head).expect("sent");
    client.socket.write_all(data).expect("sent");
}

fn info(client: &mut Client) -> wharf::InfoResponse {
    client.wharf("Info", &wharf::InfoRequest {}).expect("answers")
}

#[test]
fn unknown_services_and_methods() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let error = client.call::<Nothing>("no.Service", "X", &Nothing {}).expect_err("unknown");
    assert_eq!(error.code, 12, "{}", error.message);
    for service in [task::SERVICE_V2, task::SERVICE_V3, wharf::SERVICE] {
        let error = client.call::<Nothing>(service, "Nonsense", &Nothing {}).expect_err("unknown");
        assert_eq!(error.code, 12);
        assert!(error.message.contains("Nonsense"), "{}", error.message);
    }
    assert!(info(&mut client).shim_pid > 0);
}

#[test]
fn broken_frames_cost_only_their_sender() {
    need_host!();
    let world = World::new();
    let mut other = world.client();
    assert!(info(&mut other).shim_pid > 0);

    let mut client = world.client();
    send(&mut client, 4, 1, 1, b"\xff\xff\xff\xff");
    let (stream, result) = client.receive();
    assert_eq!((stream, result.expect_err("no request").code), (1, 3));
    send(&mut client, 0, 2, 1, b"");
    assert_eq!(client.receive().1.expect_err("even stream").code, 3);

    let over = u32::try_from(MAX_DATA_LEN + 1).expect("small");
    send(&mut client, over, 3, 1, &vec![0; MAX_DATA_LEN + 1]);
    let (stream, result) = client.receive();
    assert_eq!((stream, result.expect_err("too long").code), (3, 8));

    send(&mut client, 0, 5, 9, b"");
    let mut rest = Vec::new();
    client.socket.read_to_end(&mut rest).expect("closed");
    assert!(rest.is_empty(), "an unknown frame type ends the connection");
    assert!(info(&mut other).shim_pid > 0);
}

#[test]
fn random_bytes_do_no_harm() {
    need_host!();
    let world = World::new();
    let mut seed = 88_172_645_463_325_252_u64;
    for _ in 0..50 {
        let mut client = world.client();
        let bytes: Vec<u8> = (0..4096)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()[0]
            })
            .collect();
        let _ = client.socket.write_all(&bytes);
    }
    assert!(info(&mut world.client()).shim_pid > 0);
}

#[test]
fn a_caller_that_leaves_in_the_middle() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    for _ in 0..20 {
        let mut gone = world.client();
        gone.send(
            task::SERVICE_V2,
            "Wait",
            &task::WaitRequest { id: world.id.clone(), exec_id: String::new() },
        );
        send(&mut gone, 1000, 3, 1, b"half a frame");
    }
    client.kill(&world.id, "", 9, false).expect("killed");
    assert_eq!(client.wait_exit("").signal, 9);
}

#[test]
fn a_caller_that_does_not_read_is_dropped() {
    need_host!();
    let world = World::new();
    let mut deaf = world.client();
    deaf.socket.set_write_timeout(Some(Duration::from_secs(1))).expect("timeout");
    let request = wharf_proto::ttrpc::Request {
        service: "x".repeat(3 << 20),
        method: "X".into(),
        ..Default::default()
    };
    // Each error names the service: 3 MiB of answer a call.
    let mut dropped = false;
    for number in 0..20_u32 {
        let bytes = wharf_proto::ttrpc::frame(FrameType::Request, 2 * number + 1, &request);
        if deaf.socket.write_all(&bytes.expect("fits")).is_err() {
            dropped = true;
            break;
        }
    }
    assert!(dropped, "it goes on taking calls");
    assert!(info(&mut world.client()).shim_pid > 0);
}

#[test]
fn ids_that_lead_astray() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    for exec in ["../../x", &"x".repeat(4000), "a/b"] {
        let error = client.add_exec(&world.id, exec, &["/bin/true"], false).expect_err("refused");
        assert_eq!(error.code, 3, "{}", error.message);
    }
    let header = Header::decode([0, 0, 0, 0, 0, 0, 0, 1, 2, 0]).expect("a response");
    assert_eq!(header.frame_type, FrameType::Response);
}

#[test]
fn a_second_start_finds_the_first() {
    need_host!();
    let world = World::new();
    let first = info(&mut world.client()).shim_pid;
    world.start_shim();
    assert_eq!(info(&mut world.client()).shim_pid, first);
    let name = std::fs::read(format!("/proc/{first}/cmdline")).expect("cmdline");
    let expected = format!("wharf-shim: {}", world.id);
    assert!(name.starts_with(expected.as_bytes()), "{:?}", String::from_utf8_lossy(&name));
    world.client().shutdown(&world.id);
    wait_for("the shim to go", || !world.socket.exists());
}
