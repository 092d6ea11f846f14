//! What a process finds around it: namespaces, users, mounts, privileges, environment.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use wharf_proto::v1::{ContainerSpec, Mount, Rlimit};
use wharf_tests::{
    api::{Api, script, spec},
    world::World,
};

pub(crate) async fn says(api: &mut Api, spec: ContainerSpec) -> Result<String> {
    let shown = format!("{:?}", spec.args);
    let (container, outcome) = api.run_to_end(spec).await.context(shown.clone())?;
    ensure!(outcome.code() == 0, "{shown}: {outcome:?}");
    api.remove(&container.id).await?;
    Ok(outcome.out())
}

#[tokio::test]
async fn private_namespaces() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let kinds = ["pid", "mnt", "uts", "ipc", "net", "cgroup"];
    let list = kinds.join(" ");
    let text = format!("for n in {list}; do readlink /proc/self/ns/$n; done");
    let inside = says(&mut api, script(&text)).await?;
    let inside: Vec<_> = inside.lines().collect();
    ensure!(inside.len() == kinds.len(), "{inside:?}");
    for (kind, inside) in kinds.iter().zip(inside) {
        let host = fs::read_link(format!("/proc/self/ns/{kind}"))?;
        ensure!(host.display().to_string() != inside, "{kind} is the host's");
    }
    ensure!(says(&mut api, script("echo $$; ls /sys/class/net")).await? == "1\nlo\n");
    let mut named = script("hostname; cat /etc/hostname");
    named.hostname = "harbour".into();
    ensure!(says(&mut api, named).await?.starts_with("harbour\n"));
    let up = says(&mut api, script("ip addr show lo; ping -c1 -W5 127.0.0.1 >/dev/null")).await?;
    ensure!(up.contains("127.0.0.1"), "{up}");
    world.finish().await
}

#[tokio::test]
async fn the_hosts_network_when_asked_for() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut on_host = script("readlink /proc/self/ns/net");
    on_host.network = "host".into();
    let inside = says(&mut api, on_host).await?;
    let host = fs::read_link("/proc/self/ns/net")?.display().to_string();
    ensure!(inside.trim() == host, "{inside} {host}");
    world.finish().await
}

#[tokio::test]
async fn users_and_groups() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    for (user, uid, gid, groups) in [
        ("", "0", "0", "0"),
        ("bob", "1000", "1000", "1000 29 50"),
        ("1000", "1000", "1000", "1000 29 50"),
        ("eve:audio", "1001", "29", "29"),
        ("bob:0", "1000", "0", "0"),
        ("4321:1234", "4321", "1234", "1234"),
    ] {
        let mut as_user = script("id -u; id -g; id -G");
        as_user.user = user.into();
        let text = says(&mut api, as_user).await.with_context(|| user.to_owned())?;
        let lines: Vec<_> = text.lines().collect();
        ensure!(lines[..2] == [uid, gid], "{user}: {lines:?}");
        let mut found: Vec<_> = lines[2].split(' ').collect();
        let mut expected: Vec<_> = groups.split(' ').collect();
        found.sort_unstable();
        expected.sort_unstable();
        found.dedup();
        ensure!(found == expected, "{user}: groups {found:?}");
    }
    let mut home = script("echo $HOME; whoami");
    home.user = "bob".into();
    ensure!(says(&mut api, home).await? == "/home/bob\nbob\n");
    let mut more = script("id -G");
    more.user = "bob".into();
    more.group_add = vec!["users".into(), "777".into()];
    let groups = says(&mut api, more).await?;
    ensure!(["100", "777"].iter().all(|g| groups.split_whitespace().any(|x| x == *g)), "{groups}");
    world.finish().await
}

#[tokio::test]
async fn environment_folder_and_command() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut with_env = script("echo $A $FROM_IMAGE; pwd; echo $HOSTNAME");
    with_env.env = vec!["A=1".into(), "A=2".into(), "FROM_IMAGE=no".into()];
    with_env.working_dir = "/made/on the/way".into();
    with_env.hostname = "h".into();
    ensure!(says(&mut api, with_env).await? == "2 no\n/made/on the/way\nh\n");
    let mut entry = spec(["a", "b"]);
    entry.entrypoint = vec!["echo".into(), "entry".into()];
    ensure!(says(&mut api, entry).await? == "entry a b\n");
    // The image's own command is a shell, which ends at once without input.
    ensure!(says(&mut api, spec([""; 0])).await?.is_empty());
    world.finish().await
}

#[tokio::test]
async fn mounts() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let folder = world.folder().join("host folder");
    fs::create_dir(&folder)?;
    fs::write(folder.join("there"), "from the host\n")?;
    let bind = Mount {
        r#type: "bind".into(),
        source: folder.display().to_string(),
        target: "/deep/in/side".into(),
        ..Default::default()
    };
    let mut writes = script("cat /deep/in/side/there; echo back > /deep/in/side/new");
    writes.mounts = vec![bind.clone()];
    ensure!(says(&mut api, writes).await? == "from the host\n");
    ensure!(fs::read_to_string(folder.join("new"))? == "back\n");
    let mut reads = script("cat /deep/in/side/there; ! echo x 2>/dev/null > /deep/in/side/no");
    reads.mounts = vec![Mount { read_only: true, ..bind.clone() }];
    ensure!(says(&mut api, reads).await? == "from the host\n");
    ensure!(!folder.join("no").exists());
    let mut file = script("cat /etc/motd");
    file.mounts = vec![Mount {
        source: folder.join("there").display().to_string(),
        target: "/etc/motd".into(),
        ..bind.clone()
    }];
    ensure!(says(&mut api, file).await? == "from the host\n");
    let mut tmpfs = script("mount | grep ' /scratch ' | grep -c size=2048k; echo x > /scratch/x");
    tmpfs.mounts = vec![Mount {
        r#type: "tmpfs".into(),
        target: "/scratch".into(),
        options: vec!["size=2m".into()],
        ..Default::default()
    }];
    ensure!(says(&mut api, tmpfs).await? == "1\n");
    let missing = world.folder().join("made/for/docker");
    let mut made = script("touch /m/x");
    made.mounts = vec![Mount {
        source: missing.display().to_string(),
        target: "/m".into(),
        create_source: true,
        ..bind
    }];
    says(&mut api, made).await?;
    ensure!(missing.join("x").exists());
    world.finish().await
}

#[tokio::test]
async fn least_privilege() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let status = says(&mut api, script("grep -E 'NoNewPrivs|Cap(Eff|Bnd|Prm)' /proc/1/status"));
    let status = status.await?;
    // Docker's default set.
    for line in [
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "NoNewPrivs:\t1",
    ] {
        ensure!(status.contains(line), "{line}: {status}");
    }
    let mut fewer = script("grep CapEff /proc/1/status");
    fewer.cap_drop = vec!["ALL".into()];
    fewer.cap_add = vec!["NET_ADMIN".into(), "CAP_CHOWN".into()];
    ensure!(says(&mut api, fewer).await? == "CapEff:\t0000000000001001\n");
    // Not every kernel has these.
    let hidden = "cat /proc/kcore /proc/keys 2>/dev/null | wc -c; ls /sys/firmware | wc -l; \
                  ! echo x 2>/dev/null > /proc/sys/kernel/domainname; \
                  ! echo x 2>/dev/null > /sys/kernel/uevent_helper; ls /dev | sort | tr '\\n' ' '";
    let text = says(&mut api, script(hidden)).await?;
    let lines: Vec<_> = text.lines().collect();
    ensure!(lines[..2] == ["0", "0"], "{text}");
    let devices = lines[2].trim();
    ensure!(
        devices.trim_start_matches("core ")
            == "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
        "{text}"
    );
    let mut frozen = script("! touch /x 2>/dev/null; touch /dev/shm/ok; echo ro");
    frozen.read_only_rootfs = true;
    ensure!(says(&mut api, frozen).await? == "ro\n");
    let mut limited = script("ulimit -n; ulimit -Hn");
    limited.rlimits = vec![Rlimit { name: "nofile".into(), soft: 100, hard: 200 }];
    ensure!(says(&mut api, limited).await? == "100\n200\n");
    // Its own three, and the one with which ls reads the folder: none of the shim's.
    ensure!(says(&mut api, spec(["ls", "/proc/self/fd"])).await? == "0\n1\n2\n3\n");
    let mut shared = script("df -k /dev/shm | tail -1");
    shared.shm_size_bytes = 1 << 20;
    ensure!(says(&mut api, shared).await?.contains(" 1024 "));
    world.finish().await
}

#[tokio::test]
async fn writes_stay_in_their_own_layer() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let (one, _) = api
        .run_to_end(script("echo mine > /bin/new; rm /etc/group; echo x >> /etc/passwd"))
        .await?;
    ensure!(
        says(&mut api, script("ls /bin/new 2>&1; cat /etc/group | wc -l; wc -l < /etc/passwd"))
            .await?
            .ends_with("8\n5\n")
    );
    // What was written is there at the next start of the same container.
    api.start(&one.id).await?;
    api.wait(&one.id).await?;
    let mut again = api.create(script("true")).await?;
    again = api.get(&again.id).await?;
    ensure!(again.id != one.id);
    world.finish().await
}
