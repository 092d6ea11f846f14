//! Waiting for a condition with a deadline, never for a time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Long enough for anything on a loaded machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks `probe` until it has an answer.
///
/// # Errors
/// After [`PATIENCE`], naming `what`; or what the probe fails with.
pub async fn until<T, F>(what: &str, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = probe().await? {
            return Ok(value);
        }
        if Instant::now() > end {
            bail!("not within {PATIENCE:?}: {what}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The same for a probe that does not wait itself.
///
/// # Errors
/// After [`PATIENCE`], naming `what`; or what the probe fails with.
pub async fn until_now<T>(what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until(what, || std::future::ready(probe())).await
}

/// Gives up on `future` after [`PATIENCE`].
///
/// # Errors
/// After that time, naming `what`; or what the future fails with.
pub async fn soon<T, E>(what: &str, future: impl Future<Output = Result<T, E>>) -> Result<T>
where
    anyhow::Error: From<E>,
{
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(result) => Ok(result?),
        Err(_) => bail!("not within {PATIENCE:?}: {what}"),
    }
}
