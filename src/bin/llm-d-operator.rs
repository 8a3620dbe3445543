//! The controller's program: arguments in, `operator::cli` does the rest. IO.

fn main() -> std::process::ExitCode {
    print!("{}", llm_d_operator::api::crd::yaml().unwrap_or_default());
    std::process::ExitCode::SUCCESS
}
