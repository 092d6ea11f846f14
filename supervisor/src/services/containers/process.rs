//! What runs in a container: the image's config and the request, taken together. Pure.

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::{spec::Spec, user::Identity};

/// As Docker and containerd set it where the image does not.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The process of a container, complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; not empty.
    pub args: Vec<String>,
    /// `NAME=value`, each name once.
    pub env: Vec<String>,
    /// Absolute.
    pub cwd: String,
    /// Who it is.
    pub identity: Identity,
}

/// Neither the image nor the request says what to run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no command: the image has neither entrypoint nor cmd, so the request must name one")]
pub struct NoCommand;

/// Program and arguments, as Docker combines them: an entrypoint of the request drops the image's
/// cmd, `[""]` drops the image's entrypoint too.
///
/// # Errors
/// [`NoCommand`].
pub fn command(spec: &Spec, image: &ImageConfiguration) -> Result<Vec<String>, NoCommand> {
    let config = image.config().as_ref();
    let of_image = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let (mut args, default_cmd) = if spec.entrypoint.is_empty() {
        (
            of_image(config.and_then(|c| c.entrypoint().as_ref())),
            of_image(config.and_then(|c| c.cmd().as_ref())),
        )
    } else {
        let entrypoint = &spec.entrypoint;
        let none = entrypoint.len() == 1 && entrypoint[0].is_empty();
        (if none { Vec::new() } else { entrypoint.clone() }, Vec::new())
    };
    args.extend(if spec.args.is_empty() { default_cmd } else { spec.args.clone() });
    if args.is_empty() { Err(NoCommand) } else { Ok(args) }
}

/// The environment: defaults, then the request's, then what the image has besides.
#[must_use]
pub fn environment(
    spec: &Spec,
    image: &ImageConfiguration,
    hostname: &str,
    home: &str,
) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if spec.tty {
        env.push("TERM=xterm".into());
    }
    let of_image = image.config().as_ref().and_then(|c| c.env().clone()).unwrap_or_default();
    let mut asked: Vec<String> = Vec::new();
    for entry in &spec.env {
        set(&mut asked, entry);
    }
    for entry in &of_image {
        if !asked.iter().any(|e| name(e) == name(entry)) {
            asked.push(entry.clone());
        }
    }
    for entry in &asked {
        set(&mut env, entry);
    }
    if !env.iter().any(|e| name(e) == "HOME") {
        env.push(format!("HOME={}", if home.is_empty() { "/" } else { home }));
    }
    env
}

/// The environment of an exec: the container's, with `more` put over it.
#[must_use]
pub fn exec_environment(
    container: &[String],
    more: &[String],
    tty: bool,
    home: &str,
) -> Vec<String> {
    let mut env = container.to_vec();
    if tty && !env.iter().any(|e| name(e) == "TERM") {
        env.push("TERM=xterm".into());
    }
    if !home.is_empty() {
        set(&mut env, &format!("HOME={home}"));
    }
    for entry in more {
        set(&mut env, entry);
    }
    env
}

/// The working folder: the request's, the image's, "/".
#[must_use]
pub fn working_dir(spec: &Spec, image: &ImageConfiguration) -> String {
    let of_image = image.config().as_ref().and_then(|c| c.working_dir().clone());
    let dir = if spec.working_dir.is_empty() {
        of_image.unwrap_or_default()
    } else {
        spec.working_dir.clone()
    };
    // Old images have relative ones; they are meant from the root.
    if dir.starts_with('/') { dir } else { format!("/{dir}") }
}

/// The user: the request's, else the image's.
#[must_use]
pub fn user<'a>(spec: &'a Spec, image: &'a ImageConfiguration) -> &'a str {
    if !spec.user.is_empty() {
        return &spec.user;
    }
    image.config().as_ref().and_then(|c| c.user().as_deref()).unwrap_or_default()
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// Sets a variable in place, or at the end when it is new.
fn set(env: &mut Vec<String>, entry: &str) {
    match env.iter_mut().find(|e| name(e) == name(entry)) {
        Some(old) => entry.clone_into(old),
        None => env.push(entry.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{ConfigBuilder, ImageConfiguration, ImageConfigurationBuilder};

    use super::{NoCommand, Spec, command, environment, working_dir};

    fn image(entrypoint: &[&str], cmd: &[&str], env: &[&str]) -> ImageConfiguration {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let config = ConfigBuilder::default()
            .entrypoint(owned(entrypoint))
            .cmd(owned(cmd))
            .env(owned(env))
            .working_dir("srv")
            .build()
            .expect("config");
        let mut image = ImageConfigurationBuilder::default()
            .architecture("amd64")
            .os("linux")
            .rootfs(
                oci_spec::image::RootFsBuilder::default()
                    .typ("layers")
                    .diff_ids(Vec::<String>::new())
                    .build()
                    .expect("rootfs"),
            )
            .build()
            .expect("image");
        image.set_config(Some(config));
        image
    }

    fn spec(entrypoint: &[&str], args: &[&str]) -> Spec {
        Spec {
            entrypoint: entrypoint.iter().map(|s| (*s).to_owned()).collect(),
            args: args.iter().map(|s| (*s).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn commands_combine_as_in_docker() {
        let both = image(&["/e"], &["c"], &[]);
        for (entrypoint, args, expected) in [
            (&[][..], &[][..], &["/e", "c"][..]),
            (&[], &["a"], &["/e", "a"]),
            (&["/x"], &[], &["/x"]),
            (&["/x"], &["a"], &["/x", "a"]),
            (&[""], &["a"], &["a"]),
        ] {
            let got = command(&spec(entrypoint, args), &both).expect("a command");
            assert_eq!(got, expected);
        }
        assert_eq!(command(&spec(&[], &[]), &image(&[], &[], &[])), Err(NoCommand));
        assert_eq!(command(&spec(&[""], &[]), &both), Err(NoCommand));
    }

    #[test]
    fn environment_in_dockers_order() {
        let image = image(&[], &[], &["PATH=/bin", "A=image", "B=image"]);
        let spec = Spec {
            env: vec!["A=1".into(), "C=3".into(), "A=2".into()],
            tty: true,
            ..Default::default()
        };
        assert_eq!(
            environment(&spec, &image, "h", "/root"),
            ["PATH=/bin", "HOSTNAME=h", "TERM=xterm", "A=2", "C=3", "B=image", "HOME=/root"]
        );
    }

    #[test]
    fn relative_folders_begin_at_the_root() {
        assert_eq!(working_dir(&Spec::default(), &image(&[], &[], &[])), "/srv");
    }
}
