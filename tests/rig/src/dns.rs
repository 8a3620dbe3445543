//! dns: to be filled
