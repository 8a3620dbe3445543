//! gateway: to be filled
