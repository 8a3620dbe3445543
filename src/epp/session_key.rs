//! Names of sessions -> keyed hashes. PURE but for the key of a process that is given none.
//!
//! A session's name may be a credential (`authorization`), and what is made of it is published:
//! in Redis, in the decision log. A plain hash of a short name can be found by trying; under
//! a secret of the pool it says nothing to those who do not have it.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Makes keys of session names; the same in every replica that has the same secret.
#[derive(Clone)]
pub struct SessionKeys(Hmac<Sha256>);

impl std::fmt::Debug for SessionKeys {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKeys")
    }
}

impl SessionKeys {
    /// Keys under this secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// Keys under a secret that only this process has.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self::new(&secret))
    }

    /// The key of a session.
    pub fn of(&self, name: &[u8]) -> u64 {
        let mut mac = self.0.clone();
        mac.update(name);
        let code = mac.finalize().into_bytes();
        code.iter()
            .take(8)
            .fold(0, |key, byte| key << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_under_one_secret_and_another_under_another() {
        let (one, same) = (SessionKeys::new(b"s"), SessionKeys::new(b"s"));
        assert_eq!(one.of(b"Bearer x"), same.of(b"Bearer x"));
        assert_ne!(one.of(b"Bearer x"), one.of(b"Bearer y"));
        assert_ne!(one.of(b"x"), SessionKeys::new(b"t").of(b"x"));
        let random = || SessionKeys::random().unwrap().of(b"x");
        assert_ne!(random(), random());
        // RFC 4231, test case 2: the first eight bytes.
        let known = SessionKeys::new(b"Jefe").of(b"what do ya want for nothing?");
        assert_eq!(known, 0x5bdc_c146_bf60_754e);
    }
}
