//! operator: to be filled
