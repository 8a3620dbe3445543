//! The controller's program: the command line, and `operator::cli` does the rest.

fn main() -> std::process::ExitCode {
    llm_d_operator::operator::cli::main()
}
