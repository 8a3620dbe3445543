//! api: to be filled
