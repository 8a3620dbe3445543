//! The chart by itself: lints clean, refuses values it does not know, renders what it promises.

use std::process::{Command, Output};

use anyhow::{Result, ensure};

use crate::support::root;

fn helm(args: &[&str]) -> Result<Output> {
    let tools = rig::tools::ensure_all()?;
    Ok(Command::new(tools.helm)
        .args(args)
        .current_dir(root())
        .output()?)
}

#[test]
fn the_chart_lints_and_refuses_unknown_values() -> Result<()> {
    let chart = "charts/llm-d-operator";
    let lint = helm(&["lint", "--strict", chart])?;
    ensure!(
        lint.status.success(),
        "{}",
        String::from_utf8_lossy(&lint.stdout)
    );
    let typo = helm(&["template", "x", chart, "--set", "replica=2"])?;
    let said = String::from_utf8_lossy(&typo.stderr).into_owned();
    ensure!(
        !typo.status.success() && said.contains("replica"),
        "a misspelt value was accepted: {said}"
    );
    let rendered = helm(&[
        "template",
        "llm-d-operator",
        chart,
        "--set",
        "image.repository=r.example/op",
        "--set",
        "image.tag=0.9.0",
    ])?;
    let text = String::from_utf8_lossy(&rendered.stdout).into_owned();
    ensure!(
        rendered.status.success(),
        "{}",
        String::from_utf8_lossy(&rendered.stderr)
    );
    for line in [
        "image: r.example/op:0.9.0",
        "--epp-image=r.example/op:0.9.0",
        "--routing-proxy-image=r.example/op:0.9.0",
        "--epp-cluster-role=llm-d-operator-epp",
    ] {
        ensure!(text.contains(line), "not rendered: {line}");
    }
    Ok(())
}
