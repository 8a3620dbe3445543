//! cluster: to be filled
