//! images: to be filled
