//! What the scanner reads.
