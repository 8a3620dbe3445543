//! The Endpoint Picker's program: `epp::run` does the rest.

fn main() -> std::process::ExitCode {
    llm_d_operator::epp::run::main()
}
