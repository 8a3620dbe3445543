//! What clients and manifests see of the simulator.

use std::time::Duration;

use proptest::prelude::*;

use super::cli::Config;
use super::engine::{PrefixCache, tokenize};

fn parse(line: &str) -> Config {
    Config::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()).unwrap()
}

#[test]
fn every_way_to_start_vllm_is_understood() {
    for line in [
        "vllm serve org/m --port 8001 --served-model-name x y --enable-prefix-caching --block-size=16",
        "serve org/m --served-model-name x y --port=8001 --kv-transfer-config {\"kv_connector\":\"NixlConnector\"}",
        "python3 -m vllm.entrypoints.openai.api_server --model org/m --port 8001 --served-model-name x y --no-enable-chunked-prefill",
    ] {
        let config = parse(line);
        assert_eq!(
            (config.model.as_str(), config.port),
            ("org/m", 8001),
            "{line}"
        );
        assert_eq!(config.served_names, ["x", "y"], "{line}");
    }
}

#[test]
fn durations_and_wrong_values() {
    assert_eq!(
        parse("m --time-to-first-token 20").time_to_first_token,
        Duration::from_millis(20)
    );
    assert_eq!(
        parse("m --inter-token-latency=1s").inter_token_latency,
        Duration::from_secs(1)
    );
    assert_eq!(parse("m").served_names, ["m"]);
    assert!(Config::parse(&["--port".to_owned(), "x".to_owned()]).is_err());
}

#[test]
fn a_repeated_prefix_is_cached_in_whole_blocks() {
    let mut cache = PrefixCache::new(4, 100);
    let text = "a b c d e f g h i";
    assert_eq!(cache.admit(&tokenize(text)), 0);
    assert_eq!(cache.admit(&tokenize(text)), 8);
    assert_eq!(cache.admit(&tokenize("a b c d x f g h")), 4);
    assert_eq!(cache.admit(&tokenize("z b c d e f g h")), 0);
}

proptest! {
    #[test]
    fn the_cache_never_outgrows_its_size_and_never_claims_more_than_the_prompt(
        prompts in prop::collection::vec("[a-c ]{0,60}", 0..30), capacity in 0_usize..10,
    ) {
        let mut cache = PrefixCache::new(3, capacity);
        for prompt in &prompts {
            let tokens = tokenize(prompt);
            prop_assert!(cache.admit(&tokens) <= tokens.len());
            prop_assert!(cache.usage() <= 1.0);
        }
    }
}
