//! The API over TCP: only with a certificate that the right authority has signed.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use wharf_tests::{
    host, wait,
    world::{World, has_ended},
};

const AUTHORITY: &str = "req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
const REQUEST: &str = "req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";

fn openssl(folder: &Path, words: &str) -> Result<()> {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(folder).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "openssl {words}: {errors}");
    Ok(())
}

/// An authority `ca`, and `name` signed by it.
fn certificates(folder: &Path, ca: &str, name: &str, extension: &str) -> Result<()> {
    if !folder.join(format!("{ca}.pem")).exists() {
        openssl(folder, &format!("{AUTHORITY} -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"))?;
    }
    fs::write(folder.join("extension"), extension)?;
    openssl(folder, &format!("{REQUEST} -subj /CN={name} -keyout {name}.key -out {name}.csr"))?;
    let sign = format!("x509 -req -days 2 -in {name}.csr -CA {ca}.pem -CAkey {ca}.key");
    openssl(folder, &format!("{sign} -CAcreateserial -extfile extension -out {name}.pem"))
}

#[tokio::test]
async fn tcp_wants_a_certificate_of_ours() -> Result<()> {
    if host::tool("openssl").is_none() {
        return host::skip("tcp_wants_a_certificate_of_ours", "no openssl(1) here");
    }
    let world = World::cold(Default::default())?;
    let folder = world.folder();
    let of_client = "extendedKeyUsage=clientAuth";
    certificates(folder, "ca", "server", "subjectAltName=DNS:localhost,IP:127.0.0.1")?;
    certificates(folder, "ca", "friend", of_client)?;
    certificates(folder, "other", "stranger", of_client)?;
    let file = |name: &str| folder.join(name).display().to_string();
    let config = format!(
        "[tls]\ncert = '{}'\nkey = '{}'\nclient_ca = '{}'\n",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    fs::write(folder.join("tls.toml"), config)?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let address = format!("tcp:127.0.0.1:{port}");
    let log = File::create(folder.join("tls.log"))?;
    let mut daemon = Command::new(host::binary("wharfd")?)
        .args(["--config", &file("tls.toml"), "--address", &address])
        .args(["--root", &file("tr"), "--state", &file("ts")])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let version = |name: Option<&str>| -> Result<bool> {
        let mut command = world.cli(["version"])?;
        command.env("WHARF_ADDRESS", &address);
        if let Some(name) = name {
            command.args(["--tls-ca", &file("ca.pem")]);
            command.args(["--tls-cert", &file(&format!("{name}.pem"))]);
            command.args(["--tls-key", &file(&format!("{name}.key"))]);
        }
        let output = command.output()?;
        // The client's own version is told in any case.
        Ok(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("Server"))
    };
    let known = wait::until_now("the friend is let in", || {
        if let Some(status) = daemon.try_wait()? {
            anyhow::bail!(
                "wharfd ended: {status}: {}",
                fs::read_to_string(folder.join("tls.log"))?
            );
        }
        Ok(version(Some("friend"))?.then_some(()))
    });
    let known = known.await;
    let stranger = version(Some("stranger"));
    let nobody = version(None);
    // Every call of these two upgrades makes a connection of its own.
    let over = AtomicBool::new(false);
    let through = std::thread::scope(|scope| {
        let calls = scope.spawn(|| {
            let mut calls = 0;
            while !over.load(Ordering::Relaxed) {
                ensure!(version(Some("friend"))?, "call {calls} of an upgrade failed");
                calls += 1;
            }
            Ok(calls)
        });
        let upgrades =
            (0..2).try_for_each(|_| upgrade(world.cli(["system", "upgrade"])?, &address, folder));
        over.store(true, Ordering::Relaxed);
        let calls = calls.join().expect("calls do not panic");
        upgrades.and(calls)
    });
    daemon.kill()?;
    daemon.wait()?;
    // The newest is nobody's child here.
    let newest = fs::read_to_string(folder.join("tr/wharfd.lock"))?.trim().parse()?;
    let ended = kill(Pid::from_raw(newest), Signal::SIGTERM);
    wait::until_now("the newest ends", || Ok(has_ended(newest).then_some(()))).await?;
    known?;
    ensure!(!stranger?, "a stranger was let in");
    ensure!(!nobody?, "nobody in particular was let in");
    ensure!(through? > 0, "no call was made meanwhile");
    ended?;
    world.finish().await
}

fn upgrade(mut command: Command, address: &str, folder: &Path) -> Result<()> {
    let file = |name: &str| folder.join(name);
    command.env("WHARF_ADDRESS", address);
    command.arg("--tls-ca").arg(file("ca.pem"));
    command.arg("--tls-cert").arg(file("friend.pem")).arg("--tls-key").arg(file("friend.key"));
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
