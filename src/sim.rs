//! sim: to be filled
