//! `crd`: the CustomResourceDefinition on standard output. IO.

use anyhow::Context as _;

/// Prints the CRD.
pub(super) fn run() -> anyhow::Result<()> {
    print!(
        "{}",
        crate::api::crd::yaml().context("write the CRD as YAML")?
    );
    Ok(())
}
