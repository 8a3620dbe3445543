//! The programs together, on a real control plane with real Envoy and Valkey: what a user of
//! the cluster would see. Each test has a cluster of its own.

mod article;
mod bad_input;
mod bad_signals;
mod cache;
mod chart;
mod crashes;
mod life;
mod neighbours;
mod ports;
mod sdk;
mod support;
