//! The command line on a real terminal.

use anyhow::{Result, ensure};
use wharf_proto::v1::ContainerState;
use wharf_tests::{api::sleeper, image::BUSYBOX, terminal::Terminal, wait, world::World};

#[tokio::test]
async fn a_shell_with_resize_and_exit_code() -> Result<()> {
    let world = World::start().await?;
    let _api = world.with_busybox().await?;
    let command = world.cli(["run", "-it", "--rm", "--name", "shell", BUSYBOX, "sh"])?;
    let mut terminal = Terminal::spawn(&command)?;
    terminal.expect("# ").await?;
    ensure!(!terminal.echoes()?, "the terminal is not raw");
    terminal.send("stty size; echo m''ark\n")?;
    terminal.expect("24 80\r\nmark").await?;
    terminal.resize(111, 33)?;
    // The new size needs its time; asking again does not.
    wait::until_now("the new size", || {
        terminal.send("stty size\n")?;
        std::thread::sleep(std::time::Duration::from_millis(20));
        Ok(terminal.screen().contains("33 111").then_some(()))
    })
    .await?;
    terminal.send("exit 19\n")?;
    let status = terminal.end().await?;
    ensure!(status.code() == Some(19), "{status}: {}", terminal.screen());
    ensure!(terminal.echoes()?, "the terminal was left raw");
    world.finish().await
}

#[tokio::test]
async fn detach_keys_and_attach() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let command = world.cli(["run", "-it", "--name", "kept", BUSYBOX, "sh"])?;
    let mut terminal = Terminal::spawn(&command)?;
    terminal.expect("# ").await?;
    terminal.send("x=ke''pt; echo re''ady\n")?;
    terminal.expect("ready").await?;
    terminal.send("\u{10}\u{11}")?;
    let status = terminal.end().await?;
    ensure!(status.code() == Some(0), "{status}: {}", terminal.screen());
    ensure!(terminal.echoes()?, "the terminal was left raw");
    ensure!(api.state("kept").await? == ContainerState::Running);

    let mut terminal = Terminal::spawn(&world.cli(["attach", "kept"])?)?;
    wait::until_now("the attached terminal is raw", || Ok((!terminal.echoes()?).then_some(())))
        .await?;
    terminal.send("echo still $x\n")?;
    terminal.expect("still kept").await?;
    terminal.send("exit 4\n")?;
    ensure!(terminal.end().await?.code() == Some(4), "{}", terminal.screen());
    world.finish().await
}

#[tokio::test]
async fn exec_on_a_terminal() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = sleeper();
    spec.name = "home".into();
    api.run(spec).await?;
    let mut terminal = Terminal::spawn(&world.cli(["exec", "-it", "home", "sh"])?)?;
    terminal.expect("# ").await?;
    terminal.send("tty; stty size\n")?;
    terminal.expect("/dev/pts/0\r\n24 80").await?;
    // Ctrl-C is for the program inside, not for the client.
    terminal.send("echo slee''ping; sleep 1000\n")?;
    terminal.expect("sleeping").await?;
    terminal.send("\u{3}")?;
    terminal.send("echo inter''rupted; exit 21\n")?;
    terminal.expect("interrupted").await?;
    ensure!(terminal.end().await?.code() == Some(21), "{}", terminal.screen());
    world.finish().await
}
