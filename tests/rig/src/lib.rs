//! A Kubernetes cluster in a namespace: real etcd, kube-apiserver,
//! controller-manager and scheduler, a node that runs containers as processes, a
//! service proxy, DNS, and Envoy as the gateway. No root, no images, no containers.
//!
//! ```text
//! up (outside: the ways in)
//!   inner (inside the namespaces, or on loopback)
//!     tools -> net -> controlplane -> crds -> world -> node + services + dns + gateway
//! cluster (the handle tests hold) and demo (what a newcomer sees) sit on `up`
//! ```
//!
//! Every address that others are told is a listener the rig itself holds, or a Unix socket;
//! behind it programs may move (`ports`, `supervise`).
//!
//! Everything is a child process in a temporary directory and dies with its parent.

pub mod cluster;
pub mod controlplane;
pub mod crds;
pub mod demo;
pub mod dns;
pub mod exec;
pub mod gateway;
pub mod images;
pub mod inner;
pub mod net;
pub mod netlink;
pub mod node;
pub mod paths;
pub mod portal;
pub mod ports;
pub mod process;
pub mod services;
pub mod supervise;
pub mod tools;
pub mod up;
pub mod with_redis;
pub mod world;
