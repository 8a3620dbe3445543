//! Any bytes as the payload of KV events: decoding never panics, and what is made of a
//! payload is not many times its size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_d_operator::kv::event;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(batch) = event::decode(bytes) {
        assert!(batch.events.len() + batch.rejected.len() <= bytes.len());
    }
});
