//! A shim is killed, another goes on with its container.

mod support;

use std::io::Write as _;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr};
use nix::unistd::Pid;
use prost::Message as _;
use support::{Client, Container, World, is_alive, wait_for};
use wharf_proto::shim as wharf;
use wharf_proto::ttrpc::{FrameType, HEADER_LEN, Header};

/// As the supervisor keeps: the newest message and its descriptors.
struct Keeper {
    socket: UnixStream,
    bytes: Vec<u8>,
    waiting: Vec<OwnedFd>,
    state: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Keeper {
    fn new(world: &World) -> Self {
        let mut client = world.client();
        client.send(wharf::SERVICE, "Keep", &wharf::KeepRequest {});
        let mut keeper = Self {
            socket: client.socket,
            bytes: Vec::new(),
            waiting: Vec::new(),
            state: Vec::new(),
            fds: Vec::new(),
        };
        keeper.receive(1);
        keeper
    }

    /// Takes frames until there is one with at least so many descriptors, or none for 0.
    fn until(&mut self, what: &str, mut enough: impl FnMut(&Self) -> bool) {
        for _ in 0..100 {
            if enough(self) {
                return;
            }
            self.receive(1);
        }
        panic!("no message with {what}");
    }

    fn receive(&mut self, count: usize) {
        let mut seen = 0;
        while seen < count {
            let mut buffer = vec![0; 64 << 10];
            let mut control = nix::cmsg_space!([RawFd; 16]);
            let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
            let message = nix::sys::socket::recvmsg::<UnixAddr>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )
            .expect("a message in time");
            for message in message.cmsgs().expect("whole") {
                if let ControlMessageOwned::ScmRights(numbers) = message {
                    // SAFETY: just received, nobody else's.
                    let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                    self.waiting.extend(numbers.into_iter().map(own));
                }
            }
            let received = message.bytes;
            assert!(received > 0, "the shim closed");
            self.bytes.extend_from_slice(&buffer[..received]);
            while let Some(head) = self.bytes.first_chunk::<HEADER_LEN>() {
                let header = Header::decode(*head).expect("frame");
                if self.bytes.len() < HEADER_LEN + header.len {
                    break;
                }
                assert_eq!(header.frame_type, FrameType::Data);
                let kept = wharf::Kept::decode(&self.bytes[HEADER_LEN..HEADER_LEN + header.len])
                    .expect("message");
                self.bytes.drain(..HEADER_LEN + header.len);
                let count = usize::try_from(kept.descriptors).expect("small");
                self.fds = self.waiting.drain(..count).collect();
                self.state = kept.state;
                seen += 1;
            }
        }
    }

    /// Starts another shim with what is kept.
    fn adopt(&self, world: &World) -> Output {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let kept = wharf::Kept {
            state: self.state.clone(),
            descriptors: u32::try_from(self.fds.len()).expect("small"),
        };
        let bytes = wharf_proto::ttrpc::frame(FrameType::Data, 1, &kept).expect("fits");
        let raw: Vec<RawFd> = self.fds.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = nix::sys::socket::sendmsg::<UnixAddr>(
            ours.as_raw_fd(),
            &[std::io::IoSlice::new(&bytes)],
            &[ControlMessage::ScmRights(&raw)],
            MsgFlags::empty(),
            None,
        );
        assert_eq!(sent, Ok(bytes.len()));
        world.command("adopt").stdin(OwnedFd::from(theirs)).output().expect("spawn")
    }
}

fn info(client: &mut Client) -> wharf::InfoResponse {
    client.wharf("Info", &wharf::InfoRequest {}).expect("answers")
}

fn kill(pid: u32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid.try_into().expect("pid")), signal).expect("sent");
}

/// Kills the shim, and waits until nobody answers.
fn kill_shim(world: &World) {
    let pid = info(&mut world.client()).shim_pid;
    kill(pid, Signal::SIGKILL);
    wait_for("the shim to go", || UnixStream::connect(&world.socket).is_err());
}

fn adopted(world: &World, output: &Output) -> Client {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, format!("unix://{}", world.socket.display()).as_bytes());
    let mut client = world.client();
    assert!(info(&mut client).adopted);
    client
}

fn echoing() -> Container {
    let mut container =
        Container::sh("i=0; while read line; do echo $i $line; i=$((i+1)); done; exit 3");
    container.open_stdin = true;
    container
}

#[test]
fn output_input_and_the_exit_go_on() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut keeper = Keeper::new(&world);
    assert!(keeper.state.is_empty(), "nothing to keep yet");
    let pid = world.run(&mut client, &echoing());
    keeper.until("a pidfd and three streams", |keeper| keeper.fds.len() == 4);
    client.write_stdin("", b"one\n").expect("taken");
    world.wait_for_output("0 one");

    // Again and again, the last time after an upgrade of the one that adopted.
    let mut expected = String::from("0 one\n");
    for round in 1..=4 {
        kill_shim(&world);
        assert!(is_alive(pid), "the container runs on");
        // What the container does while nobody is there is in the pipes.
        let stdin = keeper.fds.iter().find_map(|fd| {
            let file = std::fs::File::options()
                .write(true)
                .open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).expect("flags");
            file.ok().filter(|_| flags & nix::libc::O_ACCMODE == nix::libc::O_WRONLY)
        });
        stdin.expect("stdin is kept").write_all(b"alone\n").expect("written");
        expected.push_str(&format!("{} alone\n", 2 * round - 1));
        client = adopted(&world, &keeper.adopt(&world));
        if round == 3 {
            let binary = env!("CARGO_BIN_EXE_wharf-shim").to_owned();
            let request = wharf::UpgradeRequest { binary };
            client.wharf::<support::Nothing>("Upgrade", &request).expect("upgraded");
        }
        assert_eq!(info(&mut client).init_pid, pid);
        client.write_stdin("", format!("round {round}\n").as_bytes()).expect("taken");
        expected.push_str(&format!("{} round {round}\n", 2 * round));
        world.wait_for_output(&format!("round {round}"));
        keeper = Keeper::new(&world);
        keeper.until("a pidfd and three streams", |keeper| keeper.fds.len() == 4);
    }
    client.add_exec(&world.id, "e", &["/bin/echo", "hello"], false).expect("added");
    client.start(&world.id, "e").expect("started");
    assert_eq!(client.read_all("e").0, b"hello\n");
    client.delete(&world.id, "e").expect("deleted");
    client.close_stdin(&world.id, "").expect("closed");
    keeper.until("no stdin", |keeper| keeper.fds.len() < 4);
    let exit = client.wait_exit("");
    assert!(exit.exit_code == 3 || exit.unknown, "{exit:?}");
    assert_eq!(exit.unknown, !tells_exits(), "{exit:?}");
    assert_eq!(String::from_utf8(world.output()).expect("text"), expected);
    client.delete(&world.id, "").expect("deleted");
    keeper.until("nothing", |keeper| keeper.state.is_empty());
}

/// Linux 6.15 and later keep an exit for those who hold a pidfd.
fn tells_exits() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
    let mut parts = release.split('.').filter_map(|part| part.parse::<u32>().ok());
    let version = (parts.next(), parts.next());
    version >= (Some(6), Some(15))
}

#[test]
fn an_exit_that_nobody_saw() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done";
    let pid = world.run(&mut client, &Container::sh(script));
    world.wait_for_output("up");
    let mut keeper = Keeper::new(&world);
    keeper.until("descriptors", |keeper| keeper.fds.len() == 3);
    kill_shim(&world);
    kill(pid, Signal::SIGTERM);
    wait_for("the container to end", || !is_alive(pid));
    let mut client = adopted(&world, &keeper.adopt(&world));
    let exit = client.wait_exit("");
    if tells_exits() {
        assert_eq!((exit.exit_code, exit.signal, exit.unknown), (7, 0, false));
    } else {
        assert!(exit.unknown || exit.exit_code == 7, "{exit:?}");
    }
    assert_eq!(world.output(), b"up\nbye\n");
    client.delete(&world.id, "").expect("deleted");
}

#[test]
fn with_no_keeper_pipes_are_opened_anew() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    // It blocks on a pipe that nobody else has open while no shim is there.
    let script = "echo up; exec 3<>/tmp/f; read x <&3; echo $x; while :; do sleep 0.05; done";
    nix::unistd::mkfifo(
        &world.bundle.join("rootfs/tmp/f"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .expect("fifo");
    let pid = world.run(&mut client, &Container::sh(script));
    world.wait_for_output("up");
    kill_shim(&world);
    let output = world.command("adopt").stdin(Stdio::null()).output().expect("spawn");
    let mut client = adopted(&world, &output);
    assert_eq!(info(&mut client).init_pid, pid);
    std::fs::write(world.bundle.join("rootfs/tmp/f"), "again\n").expect("written");
    world.wait_for_output("again");
    client.kill(&world.id, "", 9, false).expect("killed");
    let exit = client.wait_exit("");
    assert!(exit.signal == 9 || exit.unknown, "{exit:?}");
    client.delete(&world.id, "").expect("deleted");
    assert!(!is_alive(pid));
}

#[test]
fn a_container_that_is_gone_with_its_shim() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let pid = world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    kill_shim(&world);
    kill(pid, Signal::SIGKILL);
    wait_for("the container to end", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists() || !is_alive(pid)
    });
    let output = world.command("adopt").stdin(Stdio::null()).output().expect("spawn");
    let mut client = adopted(&world, &output);
    let exit = client.wait_exit("");
    assert!(exit.unknown || exit.signal == 9, "{exit:?}");
    client.delete(&world.id, "").expect("deleted");
}

#[test]
fn an_exit_that_was_written_down() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::sh("exit 9"));
    assert_eq!(client.wait_exit("").exit_code, 9);
    let keeper = Keeper::new(&world);
    kill_shim(&world);
    let mut client = adopted(&world, &keeper.adopt(&world));
    let exit = client.wait_exit("");
    assert_eq!((exit.exit_code, exit.unknown), (9, false));
    assert_eq!(client.delete(&world.id, "").expect("deleted").exit_status, 9);
}

#[test]
fn a_terminal_goes_on_and_execs_end() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container = Container::sh("stty -echo; echo up; while read x; do echo got $x; done");
    container.terminal = true;
    container.open_stdin = true;
    world.run(&mut client, &container);
    world.wait_for_output("up");
    client.add_exec(&world.id, "e", &["/bin/sleep", "1000"], false).expect("added");
    let exec = client.start(&world.id, "e").expect("started");
    let mut keeper = Keeper::new(&world);
    keeper.until("descriptors", |keeper| keeper.fds.len() == 4);
    kill_shim(&world);
    let mut client = adopted(&world, &keeper.adopt(&world));
    wait_for("the exec to be ended", || !is_alive(exec));
    assert_eq!(client.state(&world.id, "e").expect_err("unknown").code, 5);
    client.write_stdin("", b"it\n").expect("taken");
    world.wait_for_output("got it");
}

#[test]
fn a_living_shim_is_not_replaced() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    let before = info(&mut client).shim_pid;
    let output = world.command("adopt").stdin(Stdio::null()).output().expect("spawn");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(info(&mut world.client()).shim_pid, before);
}

#[test]
fn what_is_not_understood_is_refused() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let pid = world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    let mut keeper = Keeper::new(&world);
    keeper.until("descriptors", |keeper| !keeper.fds.is_empty());
    kill_shim(&world);
    let good = std::mem::take(&mut keeper.state);
    let newer = String::from_utf8(good.clone()).expect("json").replacen(
        "\"version\":1,\"id\"",
        "\"version\":9,\"id\"",
        1,
    );
    let newer = if newer.as_bytes() == good {
        // Keys may stand in another order.
        let mut value: serde_json::Value = serde_json::from_slice(&good).expect("json");
        value["kept"]["version"] = 9.into();
        value.to_string()
    } else {
        newer
    };
    for (state, word) in [
        (newer.into_bytes(), "version 9"),
        (good[..good.len() / 2].to_vec(), "not valid"),
        (b"{}".to_vec(), "not valid"),
    ] {
        keeper.state = state;
        let output = keeper.adopt(&world);
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(word), "{text}");
        assert!(is_alive(pid));
    }
    keeper.state = good;
    let mut client = adopted(&world, &keeper.adopt(&world));
    client.kill(&world.id, "", 9, false).expect("killed");
}
