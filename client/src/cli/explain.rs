//! Errors for people: what was wrong, and what to do about it.

use anyhow::Error;
use wharf_client::{Address, Kind, Refusal, v1::ContainerFilter};

use crate::cli::{context::Context, human, output};

/// Flags of Docker's that Wharf does not have yet, with what is to say about them.
const MISSING: [(&str, &str); 9] = [
    ("--publish", "ports are not there yet: use --network host"),
    ("-p", "ports are not there yet: use --network host"),
    ("--publish-all", "ports are not there yet: use --network host"),
    ("-P", "ports are not there yet: use --network host"),
    ("--expose", "ports are not there yet"),
    ("--init", "an init process is not there yet"),
    ("--device", "devices are not there yet"),
    ("--dns", "networks are not there yet: use --network host"),
    ("--gpus", "devices are not there yet"),
];

/// Prints an error and its hints.
pub(crate) fn tell(error: &Error, hints: &[String]) {
    let mut text = format!("wharf: {}", error);
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !last.contains(&cause) {
            text += &format!(": {cause}");
        }
        last = cause;
    }
    output::complain(&text);
    if let Some(refusal) = refusal(error) {
        for field in &refusal.details.fields {
            if !refusal.message.contains(&field.description) {
                output::complain(&format!("  {}: {}", field.field, field.description));
            }
        }
    }
    for hint in hints {
        output::complain(hint);
    }
}

/// What to say about a flag that Docker has.
pub(crate) fn missing_flag(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue};
    let ContextValue::String(given) = error.get(ContextKind::InvalidArg)? else { return None };
    let flag = given.split('=').next()?;
    let (_, reason) = MISSING.iter().find(|(known, _)| *known == flag)?;
    Some(format!("wharf: {flag}: {reason}"))
}

/// The exit code that an error has by itself: a program that can't be executed, as a shell tells it.
pub(crate) fn exit_code(error: &Error) -> Option<u8> {
    match refusal(error)?.details.reason.as_deref()? {
        "ENTRYPOINT_NOT_FOUND" => Some(127),
        "ENTRYPOINT_NOT_EXECUTABLE" => Some(126),
        _ => None,
    }
}

pub(crate) fn client_error(error: &Error) -> Option<&wharf_client::Error> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

pub(crate) fn refusal(error: &Error) -> Option<&Refusal> {
    client_error(error)?.refusal()
}

/// What to do about an error. May ask the supervisor for names that were perhaps meant.
pub(crate) async fn hints(context: &Context, error: &Error) -> Vec<String> {
    let Some(error) = client_error(error) else { return Vec::new() };
    match error {
        wharf_client::Error::Connect { address, source } => connect_hints(address, source),
        wharf_client::Error::Refused(refusal) => refusal_hints(context, refusal).await,
        _ => Vec::new(),
    }
}

fn connect_hints(address: &Address, source: &std::io::Error) -> Vec<String> {
    use std::io::ErrorKind;
    let root = rustix::process::geteuid().is_root();
    let sudo = if root { "" } else { "sudo " };
    match source.kind() {
        ErrorKind::PermissionDenied => {
            vec!["The supervisor's socket is root's: run wharf as root (sudo wharf …).".to_owned()]
        }
        _ if address.to_string() == Address::DEFAULT => vec![
            "Start one:".to_owned(),
            format!("  {sudo}wharfd &"),
            format!("or let wharf do it:\n  {sudo}wharf run --autostart …"),
            "If it listens elsewhere, say so with --address or WHARF_ADDRESS.".to_owned(),
        ],
        _ if matches!(address, Address::Tcp(_)) => Vec::new(),
        _ => vec![format!("Start one with:  {sudo}wharfd --address {address} &")],
    }
}

async fn refusal_hints(context: &Context, refusal: &Refusal) -> Vec<String> {
    let Some(resource) = &refusal.details.resource else { return Vec::new() };
    match (refusal.kind, resource.kind.as_str()) {
        (Kind::NotFound, "container") => meant(&resource.name, container_names(context).await),
        (Kind::NotFound, "image") if refusal.call != "Pull" => {
            let hints = meant(human::familiar(&resource.name), image_names(context).await);
            match hints.is_empty() {
                true => vec!["`wharf images` lists what is here.".to_owned()],
                false => hints,
            }
        }
        (Kind::AlreadyExists, "container") => vec![format!(
            "Remove it (wharf rm {0}), rename it (wharf rename {0} NEW), or use another name.",
            resource.name
        )],
        _ => Vec::new(),
    }
}

fn meant(given: &str, names: Vec<String>) -> Vec<String> {
    closest(given, &names).map(|name| format!("Did you mean {name:?}?")).into_iter().collect()
}

/// The name that is nearest to what was given, if any is near: a slip of a key in four.
fn closest<'a>(given: &str, names: &'a [String]) -> Option<&'a str> {
    let slips = 1 + given.chars().count() / 4;
    let scored = names.iter().map(|name| (strsim::damerau_levenshtein(given, name), name.as_str()));
    let near = scored.filter(|(distance, name)| *distance <= slips && *distance < name.len());
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// What to say when an image is neither here nor to be had.
pub(crate) async fn image_hint(context: &Context, image: &str) -> Option<String> {
    meant(human::familiar(image), image_names(context).await).pop()
}

/// What was perhaps meant by a name that is neither a container's nor an image's.
pub(crate) async fn any_hint(context: &Context, name: &str) -> Vec<String> {
    let mut names = container_names(context).await;
    names.extend(image_names(context).await);
    meant(name, names)
}

async fn container_names(context: &Context) -> Vec<String> {
    let Ok(client) = context.plain_client() else { return Vec::new() };
    let all = client.list_containers(ContainerFilter::default()).await.unwrap_or_default();
    all.into_iter().filter_map(|container| Some(container.spec?.name)).collect()
}

async fn image_names(context: &Context) -> Vec<String> {
    let Ok(client) = context.plain_client() else { return Vec::new() };
    let all = client.list_images("").await.unwrap_or_default();
    let names = all.iter().flat_map(|image| &image.names);
    names
        .flat_map(|name| {
            let name = human::familiar(name);
            let repository = name.strip_suffix(":latest");
            [Some(name), repository].into_iter().flatten().map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions() {
        let names = ["web-1".to_owned(), "database".to_owned()];
        assert_eq!(closest("databse", &names), Some("database"));
        assert_eq!(closest("wbe-1", &names), Some("web-1"));
        assert_eq!(closest("other", &names), None);
        assert_eq!(closest("wbe", &["web".to_owned()]), Some("web"));
        assert_eq!(closest("b", &["a".to_owned()]), None);
    }

    #[test]
    fn codes_of_a_shell() {
        assert_eq!(exit_code(&anyhow::anyhow!("x")), None);
    }
}
