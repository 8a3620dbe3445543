//! tools: to be filled
