//! How KV cache gets from prefill to decode engines: which legs run, in which order, and what
//! each connector writes into their bodies. One module a connector; the legs are shared.

use std::str::FromStr;

use bytes::Bytes;
use http::Response;

use super::allowlist::Target;
use super::body::{Body, Edited};
use super::heavy;
use super::legs::{Head, Legs};
use super::params;
use super::reason::{Fallback, Refusal};
use crate::openai::api::Api;
use crate::openai::request::Request;
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

/// A request for tokens that names prefill endpoints, with its body read.
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

    /// Runs the legs and answers the client. What one transfer of KV cache cannot serve goes to
    /// the decode engine alone: it would decode on blocks of another prompt.
    pub async fn serve(self, legs: &Legs, exchange: Exchange) -> Response<Body> {
        let (api, body) = (exchange.api, exchange.body.clone());
        let eligible = move || Request::read(Some(api), &body, true).one_transfer();
        if let Err(reason) = heavy::run(exchange.body.len(), eligible).await {
            legs.metrics().ineligible(reason.label());
            return decode_only(legs, &exchange.head, exchange.body).await;
        }
        match self {
            Self::Nixlv2 => nixlv2::serve(legs, exchange).await,
            Self::Nixl | Self::SharedStorage | Self::Sglang | Self::Mooncake | Self::Offloading => {
                legs.fell_back(&exchange.head, Fallback::Connector);
                decode_only(legs, &exchange.head, exchange.body).await
            }
        }
    }
}

/// The request as the client sent it, less KV transfer parameters of its own. Whatever else
/// its body is, the engine judges it.
pub async fn decode_only(legs: &Legs, head: &Head, body: Bytes) -> Response<Body> {
    let client = body.clone();
    let strip = move || {
        params::strip(&client)
            .map(|less| less.map(|object| Edited::of(&client, |each| object.pieces(each))))
    };
    match heavy::run(body.len(), strip).await {
        Ok(None) => legs.decode(head, body.into(), None).await,
        Ok(Some(less)) => {
            legs.metrics().stripped();
            legs.decode(head, less, None).await
        }
        Err(error) => not_safe(legs, head, &error),
    }
}

/// The answer to a body that names KV transfer parameters and cannot be rid of them.
pub fn not_safe(legs: &Legs, head: &Head, error: &splice::Error) -> Response<Body> {
    let message = format!(
        "the body names {}, which clients must not set, and it cannot be taken out: {error}",
        params::KV_TRANSFER_PARAMS
    );
    legs.refuse(head.api, Refusal::Unsafe, &message)
}
