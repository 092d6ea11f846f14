//! `wharf-runtime`: an OCI runtime with runc's command line.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    std::process::exit(wharf_runtime::command_line(&args));
}
