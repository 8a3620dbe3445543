//! controlplane: to be filled
