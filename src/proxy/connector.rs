//! How KV cache gets from prefill to decode engines: which legs run, in which order, and what
//! each connector writes into their bodies. One module a connector; the legs are shared.

use std::str::FromStr;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::allowlist::Target;
use super::body::Body;
use super::failure;
use super::legs::{Head, Legs};
use super::metrics::{Fallback, Refusal};
use super::params;
use super::route::Api;
use crate::openai::splice;

pub mod nixlv2;

/// The connectors of every generation of sidecars.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connector {
    /// NIXL with `kv_transfer_params`: prefill, then decode with what the prefill returned.
    Nixlv2,
    /// NIXL with top-level fields.
    Nixl,
    /// A store that both engines share; `lmcache` in older versions.
    SharedStorage,
    /// SGLang's bootstrap rooms.
    Sglang,
    /// Mooncake's bootstrap servers.
    Mooncake,
    /// Offloading with peer-to-peer reads.
    Offloading,
}

/// A connector nobody knows.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "unknown connector {name:?}: known are nixlv2, nixl, lmcache, shared-storage, sglang, mooncake and offloading"
)]
pub struct UnknownConnector {
    name: String,
}

impl FromStr for Connector {
    type Err = UnknownConnector;

    fn from_str(name: &str) -> Result<Self, UnknownConnector> {
        Ok(match name {
            "nixlv2" => Self::Nixlv2,
            "nixl" => Self::Nixl,
            "lmcache" | "shared-storage" => Self::SharedStorage,
            "sglang" => Self::Sglang,
            "mooncake" => Self::Mooncake,
            "offloading" => Self::Offloading,
            _ => {
                return Err(UnknownConnector {
                    name: name.to_owned(),
                });
            }
        })
    }
}

/// A request that names prefill endpoints, with its body read.
#[derive(Debug)]
pub struct Exchange {
    /// What it is for.
    pub api: Api,
    /// Its head, routing headers taken out.
    pub head: Head,
    /// The client's bytes.
    pub body: Bytes,
    /// Allowed endpoints, best first.
    pub targets: Vec<Target>,
}

impl Connector {
    /// True when this version can do it; else prompts are computed by the decode engine.
    pub fn is_built(self) -> bool {
        self == Self::Nixlv2
    }

    /// Runs the legs and answers the client.
    pub async fn serve(self, legs: &Legs, exchange: Exchange) -> Response<Body> {
        match self {
            Self::Nixlv2 => nixlv2::serve(legs, exchange).await,
            Self::Nixl | Self::SharedStorage | Self::Sglang | Self::Mooncake | Self::Offloading => {
                legs.fell_back(&exchange.head, Fallback::Connector);
                decode_only(legs, &exchange.head, exchange.body).await
            }
        }
    }
}

/// The request as the client sent it, less KV transfer parameters of its own.
pub async fn decode_only(legs: &Legs, head: &Head, body: Bytes) -> Response<Body> {
    match params::strip(&body) {
        Ok(None) => legs.decode(head, body, None).await,
        Ok(Some(less)) => {
            legs.metrics().stripped();
            legs.decode(head, less.into(), None).await
        }
        Err(error) => not_json(legs, &error),
    }
}

/// The answer to a body that had to be read and could not.
pub fn not_json(legs: &Legs, error: &splice::Error) -> Response<Body> {
    legs.metrics().refused(Refusal::NotJson);
    failure::answer(StatusCode::BAD_REQUEST, &error.to_string())
}
