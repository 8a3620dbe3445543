//! node: to be filled
