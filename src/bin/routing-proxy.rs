//! The routing sidecar's program: `proxy::run` does the rest.

fn main() -> std::process::ExitCode {
    llm_d_operator::proxy::run::main()
}
