//! Checks with a name, told as they are made, and counted. IO: prints.

use std::process::ExitCode;

/// Counts.
#[derive(Debug, Default)]
pub struct Verdict {
    passed: usize,
    failed: usize,
}

impl Verdict {
    /// One check, and what was seen.
    pub fn check(&mut self, name: &str, passed: bool, seen: &str) {
        let word = if passed {
            self.passed += 1;
            "ok  "
        } else {
            self.failed += 1;
            "FAIL"
        };
        println!("{word} {name}: {seen}");
    }

    /// The closing line.
    pub fn close(&self) -> ExitCode {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
