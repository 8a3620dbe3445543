//! crds: to be filled
