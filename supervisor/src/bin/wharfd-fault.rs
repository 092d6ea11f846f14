//! wharfd with fault points: what `make test-faults` kills, fails and delays. Never installed.

#[path = "../main.rs"]
mod wharfd;

fn main() -> std::process::ExitCode {
    wharfd::main()
}
