//! services: to be filled
