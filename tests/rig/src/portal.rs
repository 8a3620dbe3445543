//! portal: to be filled
