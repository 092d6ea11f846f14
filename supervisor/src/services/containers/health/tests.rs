use std::time::Duration;

use super::{Health, HealthCheck, MAX_TEST, Probed, Status, of_image};

const LATE: Duration = Duration::from_secs(100);

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn check(test: &[&str]) -> HealthCheck {
    HealthCheck { test: words(test), ..HealthCheck::default() }
}

fn result(exit_code: i32) -> Probed {
    Probed { exit_code, ..Probed::default() }
}

#[test]
fn three_forms_of_a_test() {
    for (test, command) in [
        (&["CMD", "a", "b"][..], Some(words(&["a", "b"]))),
        (&["CMD-SHELL", "a | b"], Some(words(&["/bin/sh", "-c", "a | b"]))),
        (&["NONE"], None),
        (&[], None),
    ] {
        let check = check(test);
        assert_eq!(check.check(), Ok(()), "{test:?}");
        assert_eq!(check.command(), command, "{test:?}");
    }
    let long = "x".repeat(MAX_TEST + 1);
    for bad in [
        &["CMD"][..],
        &["CMD", ""],
        &["CMD-SHELL"],
        &["CMD-SHELL", ""],
        &["CMD-SHELL", "a", "b"],
        &["NONE", "a"],
        &["curl", "x"],
        &["CMD", "a\0b"],
        &["CMD", &long],
    ] {
        assert_eq!(check(bad).check().map_err(|e| e.field), Err("test"), "{bad:?}");
    }
    let short = HealthCheck { interval: Duration::from_nanos(1), ..check(&["CMD", "a"]) };
    assert_eq!(short.check().map_err(|e| e.field), Err("interval"));
}

#[test]
fn what_is_not_said_is_as_the_image_says() {
    let image = of_image(
        r#"{"config": {"Healthcheck": {"Test": ["CMD-SHELL", "x"], "Interval": 2000000000,
            "Retries": 7, "StartPeriod": 1000000}, "Shell": ["/bin/ash", "-c"]}}"#,
    );
    let image = image.expect("a config");
    assert_eq!(image.command(), Some(words(&["/bin/ash", "-c", "x"])));
    assert_eq!((image.interval, image.retries), (Duration::from_secs(2), 7));
    let own = HealthCheck { timeout: Duration::from_secs(1), retries: 1, ..check(&[]) };
    let both = own.over(Some(&image)).expect("a test");
    assert_eq!(both.test, image.test);
    assert_eq!((both.interval, both.timeout), (image.interval, Duration::from_secs(1)));
    assert_eq!((both.retries, both.start_period), (1, Duration::from_millis(1)));
    let none = check(&["NONE"]).over(Some(&image)).expect("as asked");
    assert_eq!((none.command(), none.interval), (None, Duration::ZERO));
    // Times without a test are no check.
    assert_eq!(HealthCheck { retries: 1, ..check(&[]) }.over(None), None);
    for nothing in ["", "{}", "[]", r#"{"config": null}"#, r#"{"config": {"Healthcheck": null}}"#] {
        let found = of_image(nothing).unwrap_or_default();
        assert_eq!(found.over(None), None, "{nothing}");
    }
    let nonsense = of_image(r#"{"config": {"Healthcheck": {"Test": ["X"], "Interval": -1}}}"#);
    assert_eq!(nonsense.expect("a config").over(None), None);
}

#[test]
fn dockers_numbers_where_nothing_is_said() {
    let check = check(&["CMD", "x"]);
    let seconds = Duration::from_secs;
    assert_eq!(check.time_limit(), seconds(30));
    assert_eq!(check.pause(Status::Starting, Duration::ZERO), seconds(30));
    let slow = HealthCheck { start_period: seconds(60), ..check };
    assert_eq!(slow.pause(Status::Starting, seconds(59)), seconds(5));
    assert_eq!(slow.pause(Status::Starting, seconds(60)), seconds(30));
    assert_eq!(slow.pause(Status::Healthy, seconds(1)), seconds(30));
    assert_eq!(slow.pause(Status::Unhealthy, seconds(1)), seconds(30));
}

/// Status, streak, whether the start period is over, exit code; then status and streak.
#[test]
fn every_status_and_answer() {
    use Status::{Healthy, Starting, Unhealthy};
    let check = HealthCheck { retries: 2, start_period: LATE, ..check(&["CMD", "x"]) };
    for (before, streak, late, code, after, streak_after) in [
        (Starting, 0, false, 0, Healthy, 0),
        (Starting, 0, false, 1, Starting, 0),
        (Starting, 0, false, -1, Starting, 0),
        (Starting, 0, true, 0, Healthy, 0),
        (Starting, 0, true, 1, Starting, 1),
        (Starting, 1, true, 1, Unhealthy, 2),
        (Healthy, 0, false, 0, Healthy, 0),
        (Healthy, 0, false, 1, Healthy, 1),
        (Healthy, 1, false, 1, Unhealthy, 2),
        (Healthy, 0, true, 1, Healthy, 1),
        (Healthy, 1, true, 137, Unhealthy, 2),
        (Healthy, 1, true, 0, Healthy, 0),
        (Unhealthy, 2, false, 0, Healthy, 0),
        (Unhealthy, 2, false, 1, Unhealthy, 3),
        (Unhealthy, 2, true, 0, Healthy, 0),
        (Unhealthy, 2, true, 1, Unhealthy, 3),
    ] {
        let what = format!("{before:?} {streak} late: {late} exit {code}");
        let mut health = Health { status: before, failing_streak: streak, ..Health::default() };
        let ran = if late { LATE } else { LATE - Duration::from_nanos(1) };
        assert_eq!(health.probed(&check, ran, result(code)), before != after, "{what}");
        assert_eq!((health.status, health.failing_streak), (after, streak_after), "{what}");
    }
}

#[test]
fn five_results_are_kept() {
    let mut health = Health::begin(1);
    for code in 1..=8 {
        health.probed(&check(&["CMD", "x"]), LATE, result(code));
    }
    let codes: Vec<i32> = health.log.iter().map(|probed| probed.exit_code).collect();
    assert_eq!(codes, [4, 5, 6, 7, 8]);
    health.ended();
    assert_eq!(health.status, Status::Unhealthy);
}

#[test]
fn timers_go_on_in_another_life() {
    let check = HealthCheck { interval: Duration::from_secs(10), ..check(&["CMD", "x"]) };
    let seconds = Duration::from_secs;
    let mut health = Health::begin(1);
    assert_eq!(health.due_in(&check, seconds(100), seconds(100)), seconds(10));
    health.probed_uptime = Some(seconds(120));
    let kept = serde_json::to_string(&health).expect("json");
    let health: Health = serde_json::from_str(&kept).expect("json");
    assert_eq!(health.due_in(&check, seconds(100), seconds(124)), seconds(6));
    assert_eq!(health.due_in(&check, seconds(100), seconds(500)), Duration::ZERO);
}
