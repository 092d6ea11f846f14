//! `wharf-shim`: see the library.

fn main() -> std::process::ExitCode {
    wharf_shim::run(std::env::args().skip(1))
}
