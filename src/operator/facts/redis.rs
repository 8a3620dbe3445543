//! The address the EPP is given -> the Redis to render, or the one somebody else runs. PURE.
#![deny(clippy::disallowed_methods)]

use std::fmt;

use super::epp_config::EppScheduling;
use super::{Context, Epp};
use crate::contract;
use crate::operator::base::Place;
use crate::operator::finding::Finding;
use crate::operator::invalid::Error;
use crate::operator::resolved::Generated;

/// The Redis that the EPP uses.
#[derive(Clone, Debug)]
pub enum Redis {
    /// It uses none.
    None,
    /// The one of the namespace, which we render.
    Ours(OurRedis),
    /// One that somebody else runs.
    External(ExternalRedis),
}

impl Redis {
    /// The one we render.
    pub fn ours(&self) -> Option<&OurRedis> {
        match self {
            Self::Ours(redis) => Some(redis),
            Self::None | Self::External(_) => None,
        }
    }

    /// The one that somebody else runs.
    pub fn external(&self) -> Option<&ExternalRedis> {
        match self {
            Self::External(redis) => Some(redis),
            Self::None | Self::Ours(_) => None,
        }
    }
}

/// The Redis to render.
#[derive(Clone, Debug)]
pub struct OurRedis {
    /// Port of its Service.
    pub port: u16,
    /// Password; empty offline.
    pub password: Generated,
    /// Image.
    pub image: String,
}

/// A Redis that is somebody else's.
#[derive(Clone, PartialEq)]
pub struct ExternalRedis {
    /// The variable that names it.
    pub env: &'static str,
    /// Where that variable was written.
    pub place: Place,
    /// Its address as the user wrote it: it may hold a password, so it is shown only by
    /// [`redacted`].
    pub address: String,
    /// Secret and key of its password.
    pub password: Option<(String, String)>,
}

impl fmt::Debug for ExternalRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalRedis")
            .field("env", &self.env)
            .field("address", &redacted(&self.address))
            .finish_non_exhaustive()
    }
}

/// An address as users write it: `host:port`, or a URL.
struct Address<'a> {
    /// With `://`; empty for `host:port`.
    scheme: &'a str,
    /// User and password are in it.
    has_login: bool,
    /// Host, port and what follows.
    place: &'a str,
}

impl<'a> Address<'a> {
    fn read(address: &'a str) -> Self {
        let end = address.find("://").map_or(0, |at| at + "://".len());
        let (scheme, rest) = address.split_at(end);
        // The last `@`: a password may hold one, a host may not.
        let login = rest.rsplit_once('@');
        Self {
            scheme,
            has_login: login.is_some(),
            place: login.map_or(rest, |(_, place)| place),
        }
    }

    fn host_and_port(&self) -> (&'a str, Option<&'a str>) {
        let place = self.place.split(['/', '?']).next().unwrap_or_default();
        match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    }
}

/// An address without the user and password it may hold.
pub fn redacted(address: &str) -> String {
    let address = Address::read(address);
    let login = if address.has_login { "***@" } else { "" };
    format!("{}{login}{}", address.scheme, address.place)
}

/// An address in the form that Redis clients read.
pub fn redis_url(address: &str) -> String {
    let bare = Address::read(address).scheme.is_empty();
    format!("{}{address}", if bare { "redis://" } else { "" })
}

/// Whose the EPP's Redis is.
pub(super) fn decide(
    context: &Context<'_>,
    scheduling: &EppScheduling,
    epp: Option<&Epp>,
    findings: &mut Vec<Finding>,
) -> Result<Redis, Error> {
    let (Some(address), Some(epp)) = (scheduling.redis_addr.clone(), epp) else {
        return Ok(Redis::None);
    };
    let sources = &epp.written.sources;
    let place = sources.env(contract::CONTAINER_EPP, contract::ENV_REDIS_ADDR);
    let ours = names_our_redis(context, &address);
    if ours && !context.resolved.redis.foreign_service {
        check_our_address(context, &place, &address)?;
        return Ok(Redis::Ours(OurRedis {
            port: contract::PORT_REDIS,
            password: context.resolved.redis.password.clone().unwrap_or_default(),
            image: context.settings.redis_image.clone(),
        }));
    }
    if ours {
        findings.push(Finding::new(format!(
            "Service {} exists and is not ours: Redis is taken as external",
            contract::REDIS_NAME
        )));
    }
    let password = epp.container.env.iter().flatten().find_map(|entry| {
        let from = entry.value_from.as_ref()?.secret_key_ref.as_ref()?;
        (entry.name == contract::ENV_REDIS_PASSWORD).then(|| (from.name.clone(), from.key.clone()))
    });
    Ok(Redis::External(ExternalRedis {
        env: contract::ENV_REDIS_ADDR,
        place,
        address,
        password,
    }))
}

/// True when the address is the Redis of this namespace that we render.
fn names_our_redis(context: &Context<'_>, address: &str) -> bool {
    let Some(namespace) = context.identity.namespace.as_deref() else {
        return false;
    };
    let (host, _) = Address::read(address).host_and_port();
    let rest = host.strip_prefix(contract::REDIS_NAME);
    rest.map(|rest| rest.trim_end_matches('.'))
        .is_some_and(|rest| {
            rest.is_empty()
                || rest == format!(".{namespace}")
                || rest == format!(".{namespace}.svc")
                || rest == format!(".{namespace}.svc.cluster.local")
        })
}

/// All ModelServices of a namespace share one Redis, so nobody may move its port, and it
/// speaks no TLS.
fn check_our_address(context: &Context<'_>, place: &Place, address: &str) -> Result<(), Error> {
    let address = Address::read(address);
    let (_, port) = address.host_and_port();
    let moved = port.is_some_and(|port| port != contract::PORT_REDIS.to_string());
    let encrypted = address.scheme == "rediss://";
    if !moved && !encrypted {
        return Ok(());
    }
    let what = if encrypted {
        "asks for TLS, which"
    } else {
        "names another port, which"
    };
    Err(Error::Merged {
        object: "eppDeployment",
        place: place.clone(),
        message: format!(
            "env {} {what} the Redis this operator renders does not have; write {}.{}.svc.cluster.local:{}, \
             or another host for a Redis of your own",
            contract::ENV_REDIS_ADDR,
            contract::REDIS_NAME,
            context.identity.namespace.as_deref().unwrap_or_default(),
            contract::PORT_REDIS,
        ),
        reason: "EPPSettingsInvalid",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_user_and_password() {
        for (address, shown) in [
            ("redis://:pw@host:1", "redis://***@host:1"),
            ("rediss://me:p@w@host:1/0", "rediss://***@host:1/0"),
            ("me:pw@host:1", "***@host:1"),
            ("host:6379", "host:6379"),
            ("redis://host", "redis://host"),
        ] {
            assert_eq!(redacted(address), shown);
            assert_eq!(redis_url(address).matches("://").count(), 1);
        }
    }

    #[test]
    fn host_and_port_are_found_in_every_form() {
        for (address, wanted) in [
            ("host:1", ("host", Some("1"))),
            ("redis://u:p@host:1/0?x", ("host", Some("1"))),
            ("host", ("host", None)),
        ] {
            assert_eq!(Address::read(address).host_and_port(), wanted);
        }
    }
}
