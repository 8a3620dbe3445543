//! `LLM_D_BIND_HOST` -> the address that every listener of a program binds to. IO (reads the
//! environment, once, at the start).

use std::net::IpAddr;

use anyhow::Context as _;

use crate::contract;

/// The address, where one is set: several pods then share one network namespace, and this one
/// is the pod's own, at which its programs meet instead of at localhost. `None`: every address
/// of the machine.
///
/// # Errors
/// When the variable holds something that is no address.
pub fn host() -> anyhow::Result<Option<IpAddr>> {
    read(std::env::var(contract::ENV_BIND_HOST).ok().as_deref())
}

fn read(text: Option<&str>) -> anyhow::Result<Option<IpAddr>> {
    let text = text.unwrap_or_default().trim();
    if text.is_empty() {
        return Ok(None);
    }
    let address = text
        .parse()
        .with_context(|| format!("{}={text:?} is not an address", contract::ENV_BIND_HOST))?;
    Ok(Some(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_and_empty_are_the_same_and_nonsense_is_an_error() {
        assert_eq!(read(None).unwrap(), None);
        assert_eq!(read(Some("")).unwrap(), None);
        assert_eq!(
            read(Some("127.0.0.9")).unwrap(),
            Some([127, 0, 0, 9].into())
        );
        assert_eq!(
            read(Some("here")).unwrap_err().to_string(),
            "LLM_D_BIND_HOST=\"here\" is not an address"
        );
    }
}
