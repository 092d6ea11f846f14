//! `events`.

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde_json::{Value, json};
use wharf_client::v1::{Event, SubscribeRequest};

use crate::cli::{context::Context, human, logs::to_wire, output, parse::time, template::Template};

/// Show events as they happen
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Filters: container=NAME, type=container|image|exec, event=start (or exec.exit: a topic).
Times: 10m (ago), 2026-01-31T12:00:00Z, or seconds since the epoch.

Examples:
  wharf events
  wharf events --since 1h --until 0s
  wharf events --filter container=web --filter event=exit --format json"
)]
pub(crate) struct EventsArgs {
    /// Begin with those since then
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End with those until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Begin with the event of this number
    #[arg(long, value_name = "NUMBER", conflicts_with = "since")]
    from: Option<u64>,
    /// Only those that match KEY=VALUE (repeatable)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// json (one a line), or a template as in '{{.Action}} {{.ID}}'
    #[arg(long, default_value = "", hide_default_value = true)]
    format: String,
}

#[derive(Debug, Default)]
struct Filters {
    container: String,
    types: Vec<String>,
    actions: Vec<String>,
}

enum Shown {
    Text,
    Json,
    Template(Template),
}

pub(crate) async fn events(context: &Context, args: EventsArgs) -> Result<u8> {
    let shown = match args.format.as_str() {
        "" | "table" => Shown::Text,
        "json" => Shown::Json,
        given => Shown::Template(given.parse()?),
    };
    let filters = parse_filters(&args.filter)?;
    let moment = |given: Option<&str>, flag: &'static str| {
        let at = given.map(|given| time::moment(given, Timestamp::now())).transpose();
        at.context(flag).map(|at| at.map(to_wire))
    };
    let request = SubscribeRequest {
        from_sequence: args.from.unwrap_or(0),
        since: moment(args.since.as_deref(), "--since")?,
        until: moment(args.until.as_deref(), "--until")?,
        topics: filters.types.clone(),
        container: filters.container.clone(),
    };
    let client = context.client().await?;
    let mut events = client.events(request).await?;
    while let Some(event) = events.next().await? {
        if !filters.actions.is_empty() && !filters.actions.iter().any(|a| is(&event, a)) {
            continue;
        }
        output::print_line(&match &shown {
            Shown::Text => text(&event),
            Shown::Json => serde_json::to_string(&value(&event))?,
            Shown::Template(template) => template.render(&value(&event))?,
        })?;
    }
    Ok(0)
}

fn parse_filters(given: &[String]) -> Result<Filters> {
    let mut filters = Filters::default();
    for entry in given {
        match entry.split_once('=') {
            Some(("container", name)) if filters.container.is_empty() => {
                name.clone_into(&mut filters.container);
            }
            Some(("container", _)) => bail!("--filter container can be given only once"),
            Some(("type", kind @ ("container" | "image" | "exec"))) => {
                filters.types.push(kind.to_owned());
            }
            Some(("event", action)) => filters.actions.push(action.to_owned()),
            _ => bail!(
                "--filter {entry:?}: there are container=NAME, type=container|image|exec and \
                 event=ACTION"
            ),
        }
    }
    Ok(filters)
}

/// "container.start" is "container" and "start".
fn topic(event: &Event) -> (&str, &str) {
    event.topic.split_once('.').unwrap_or(("", &event.topic))
}

/// Docker's names for some actions are understood too.
fn is(event: &Event, action: &str) -> bool {
    let (_, own) = topic(event);
    let action = match action {
        "die" => "exit",
        "destroy" => "delete",
        other => other,
    };
    // As Docker has it: "health_status", or "health_status: healthy".
    let (action, more) = action.split_once(": ").map_or((action, None), |(a, m)| (a, Some(m)));
    let status = event.attributes.get("healthStatus").map(String::as_str);
    (own == action || event.topic == action) && more.is_none_or(|more| status == Some(more))
}

/// "health_status: healthy", as Docker calls it; the others as they are.
fn shown_action(event: &Event) -> String {
    let (_, action) = topic(event);
    match event.attributes.get("healthStatus") {
        Some(status) if action == "health_status" => format!("{action}: {status}"),
        _ => action.to_owned(),
    }
}

fn sorted(event: &Event) -> Vec<(&String, &String)> {
    let mut attributes: Vec<_> = event.attributes.iter().collect();
    attributes.sort();
    attributes
}

fn text(event: &Event) -> String {
    let at = human::timestamp(event.time).unwrap_or(Timestamp::UNIX_EPOCH);
    let ((kind, _), action) = (topic(event), shown_action(event));
    let attributes: Vec<_> = sorted(event).iter().map(|(k, v)| format!("{k}={v}")).collect();
    let attributes = match attributes.is_empty() {
        true => String::new(),
        false => format!(" ({})", attributes.join(", ")),
    };
    format!("{} {kind} {action} {}{attributes}", human::instant(at), event.id)
}

fn value(event: &Event) -> Value {
    let at = human::timestamp(event.time).unwrap_or(Timestamp::UNIX_EPOCH);
    let ((kind, _), action) = (topic(event), shown_action(event));
    let attributes: serde_json::Map<String, Value> =
        sorted(event).into_iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    json!({
        "Sequence": event.sequence,
        "Type": kind,
        "Action": action,
        "ID": event.id,
        "Actor": {"ID": event.id, "Attributes": attributes},
        "Namespace": event.namespace,
        "time": at.as_second(),
        // Fits until the year 2262.
        "timeNano": i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_prints_them() {
        let event = Event {
            sequence: 3,
            time: Some(prost_types::Timestamp { seconds: 0, nanos: 7 }),
            namespace: "default".to_owned(),
            topic: "container.exit".to_owned(),
            id: "abc".to_owned(),
            attributes: [("name", "web"), ("exitCode", "0")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        };
        assert_eq!(
            text(&event),
            "1970-01-01T00:00:00.000000007Z container exit abc (exitCode=0, name=web)"
        );
        assert!(is(&event, "exit") && is(&event, "die") && is(&event, "container.exit"));
        assert!(!is(&event, "start"));
        assert_eq!(value(&event)["Actor"]["Attributes"]["name"], "web");
        assert!(parse_filters(&["event".to_owned()]).is_err());
        let event = Event {
            topic: "container.health_status".to_owned(),
            attributes: [("healthStatus".to_owned(), "healthy".to_owned())].into(),
            ..event
        };
        assert!(text(&event).contains(" container health_status: healthy abc"), "{event:?}");
        assert!(is(&event, "health_status") && is(&event, "health_status: healthy"));
        assert!(!is(&event, "health_status: unhealthy"));
    }
}
