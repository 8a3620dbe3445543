//! A Kubernetes cluster in a namespace: real etcd, kube-apiserver,
//! controller-manager and scheduler, a node that runs containers as processes, a
//! service proxy, DNS, and Envoy as the gateway. No root, no images, no containers.
//!
//! ```text
//! tools (build or fetch programs) -> net (namespace or loopback) -> controlplane -> crds
//!   -> node + services + dns + gateway -> portal (ways in from outside) -> cluster (the handle tests hold) -> demo
//! ```
//!
//! Everything is a child process in a temporary directory and dies with its parent.

pub mod cluster;
pub mod controlplane;
pub mod crds;
pub mod demo;
pub mod dns;
pub mod gateway;
pub mod images;
pub mod net;
pub mod node;
pub mod paths;
pub mod portal;
pub mod process;
pub mod services;
pub mod tools;
