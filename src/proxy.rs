//! proxy: to be filled
