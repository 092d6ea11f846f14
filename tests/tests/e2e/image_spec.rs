//! What an image's config makes of a container, told by the container itself. The expected values are
//! those of Docker's reference (docker run, Dockerfile: ENTRYPOINT, CMD, ENV, USER, WORKDIR, LABEL,
//! EXPOSE, STOPSIGNAL).

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use wharf_proto::v1::ContainerSpec;
use wharf_tests::{
    image::{self, Packing},
    world::World,
};

struct Case {
    what: &'static str,
    config: Value,
    entrypoint: &'static [&'static str],
    args: &'static [&'static str],
    spec: ContainerSpec,
    says: &'static str,
}

fn case(what: &'static str, config: Value, says: &'static str) -> Case {
    Case { what, config, entrypoint: &[], args: &[], spec: ContainerSpec::default(), says }
}

fn cases() -> Vec<Case> {
    let path = "PATH=/bin";
    let show = json!(["/bin/sh", "-c", "echo $0 $@"]);
    vec![
        case("cmd alone", json!({"Cmd": ["echo", "cmd"], "Env": [path]}), "cmd\n"),
        case("the shell's form", json!({"Cmd": ["/bin/sh", "-c", "echo $((1+1))"]}), "2\n"),
        case("both", json!({"Entrypoint": show, "Cmd": ["a", "b"], "Env": [path]}), "a b\n"),
        Case {
            args: &["x"],
            ..case("arguments replace cmd", json!({"Entrypoint": show, "Cmd": ["a"]}), "x\n")
        },
        Case {
            entrypoint: &["/bin/echo"],
            ..case("an entrypoint drops cmd", json!({"Entrypoint": show, "Cmd": ["a"]}), "\n")
        },
        Case {
            entrypoint: &[""],
            args: &["/bin/echo", "mine"],
            ..case("no entrypoint", json!({"Entrypoint": show, "Cmd": ["a"]}), "mine\n")
        },
        Case {
            args: &["/bin/env"],
            spec: ContainerSpec {
                env: vec!["B=asked".into(), "C=3".into()],
                hostname: "here".into(),
                ..ContainerSpec::default()
            },
            ..case(
                "environment",
                json!({"Env": ["PATH=/bin:/image", "A=image", "B=image"]}),
                "PATH=/bin:/image\nHOSTNAME=here\nB=asked\nC=3\nA=image\nHOME=/root\n",
            )
        },
        Case {
            args: &["/bin/sh", "-c", "id -u; id -g; id -G; echo $HOME; pwd; stat -c '%u %g %a' ."],
            ..case(
                "user by name, folder made",
                json!({"User": "bob", "WorkingDir": "/made/here", "Env": [path]}),
                "1000\n1000\n1000 29 50\n/home/bob\n/made/here\n0 0 755\n",
            )
        },
        Case {
            args: &["/bin/sh", "-c", "id -u; id -g; id -G; echo $HOME"],
            ..case(
                "user by number, with a group",
                json!({"User": "4711:staff", "Env": [path]}),
                "4711\n50\n50\n/\n",
            )
        },
        Case {
            args: &["/bin/sh", "-c", "id -u; pwd"],
            spec: ContainerSpec {
                user: "eve".into(),
                working_dir: "/tmp".into(),
                ..ContainerSpec::default()
            },
            ..case(
                "the request before the image",
                json!({"User": "bob", "WorkingDir": "/home", "Env": [path]}),
                "1001\n/tmp\n",
            )
        },
        Case {
            args: &["/bin/sh", "-c", "cat /etc/hostname; hostname; grep -c here /etc/hosts"],
            spec: ContainerSpec { hostname: "here".into(), ..ContainerSpec::default() },
            ..case("its own files in /etc", json!({"Env": [path]}), "here\nhere\n1\n")
        },
    ]
}

#[tokio::test]
async fn as_docker_does() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    for (index, case) in cases().into_iter().enumerate() {
        let mut recipe = image::busybox()?;
        recipe.packing = Packing::Plain;
        recipe.config = case.config;
        let name = format!("case:{index}");
        api.import(&recipe.build(&name)?.oci_tar()?, "").await?;
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let spec = ContainerSpec {
            image: name,
            entrypoint: owned(case.entrypoint),
            args: owned(case.args),
            ..case.spec
        };
        let (container, outcome) = api.run_to_end(spec).await.context(case.what)?;
        ensure!(outcome.out() == case.says, "{}: {outcome:?}", case.what);
        api.remove(&container.id).await?;
    }
    world.finish().await
}

#[tokio::test]
async fn what_is_told_of_it() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let mut recipe = image::busybox()?;
    recipe.config = json!({
        "Cmd": ["true"],
        "Labels": {"of": "image", "both": "image"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "StopSignal": "SIGQUIT",
        "OnBuild": ["RUN false"],
    });
    api.import(&recipe.build("told:1")?.oci_tar()?, "").await?;
    let spec = ContainerSpec {
        image: "told:1".into(),
        labels: [("both".to_owned(), "mine".to_owned())].into(),
        exposed_ports: vec!["8080".into()],
        ..ContainerSpec::default()
    };
    let spec = api.create(spec).await?.spec.context("no spec")?;
    ensure!(spec.labels["of"] == "image" && spec.labels["both"] == "mine", "{spec:?}");
    ensure!(spec.exposed_ports == ["53/udp", "80/tcp", "8080/tcp"], "{spec:?}");
    ensure!(spec.stop_signal == "SIGQUIT", "{spec:?}");
    world.finish().await
}
