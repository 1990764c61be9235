//! The `tersor` command.

fn main() -> std::process::ExitCode {
    tersor::cli::main()
}
