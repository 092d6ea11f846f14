//! Health checks, between messages and types.

use std::time::Duration;

use wharf_proto::v1;

use super::translate::{duration, timestamp};
use crate::services::containers::{
    Error,
    health::{Health, HealthCheck, Probed},
};

pub(super) fn check(message: v1::HealthCheck) -> Result<HealthCheck, Error> {
    let time = |field: &str, given: Option<prost_types::Duration>| {
        let field = format!("spec.health_check.{field}");
        given.map_or(Ok(Duration::ZERO), |given| duration(&field, given))
    };
    Ok(HealthCheck {
        test: message.test,
        shell: Vec::new(),
        interval: time("interval", message.interval)?,
        timeout: time("timeout", message.timeout)?,
        retries: message.retries,
        start_period: time("start_period", message.start_period)?,
        start_interval: time("start_interval", message.start_interval)?,
    })
}

pub(super) fn check_message(check: &HealthCheck) -> v1::HealthCheck {
    let time = |time: Duration| (!time.is_zero()).then(|| time.try_into().ok()).flatten();
    v1::HealthCheck {
        test: check.test.clone(),
        interval: time(check.interval),
        timeout: time(check.timeout),
        retries: check.retries,
        start_period: time(check.start_period),
        start_interval: time(check.start_interval),
    }
}

pub(super) fn message(health: &Health) -> v1::Health {
    let probe = |probed: &Probed| v1::HealthProbe {
        started_at: Some(timestamp(probed.started_unix_ns)),
        ended_at: Some(timestamp(probed.ended_unix_ns)),
        exit_code: probed.exit_code,
        output: probed.output.clone(),
    };
    v1::Health {
        status: health.status.as_str().into(),
        failing_streak: health.failing_streak,
        log: health.log.iter().map(probe).collect(),
    }
}
