//! epp: to be filled
