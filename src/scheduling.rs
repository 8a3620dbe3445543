//! scheduling: to be filled
