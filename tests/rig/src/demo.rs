//! demo: to be filled
