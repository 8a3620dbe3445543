//! The simulator's program: `sim::run` does the rest.

fn main() -> std::process::ExitCode {
    llm_d_operator::sim::run::main()
}
