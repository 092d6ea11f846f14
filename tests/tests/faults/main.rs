//! The matrix: the supervisor is killed, fails or hangs between any two effects of what it does, and
//! afterwards the world is whole: nothing that was acknowledged is lost, the same request sent again
//! succeeds, and nothing is left behind.
//!
//! Each step is done once with its points traced; then once for every point that was reached and
//! every mode. `WHARF_FAULT_EVERY=n` takes every nth case (CI's sample), `WHARF_FAULT_ONLY=text` those
//! whose name holds the text. A case whose point is not reached this time counts as not taken.

#![forbid(unsafe_code)]
// What a step does is spawned: it must not borrow the step, as an async fn would.
#![allow(clippy::manual_async_fn)]

mod images;
mod lives;
mod matrix;
mod more;
