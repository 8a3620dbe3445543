//! What clients, manifests and subscribers see of the simulator.

mod apis;
mod http;
mod kv;
mod lenient;
mod realtime;
mod samples;
mod support;

use std::time::Duration;

use super::cli::Config;
use crate::kv::event::{Form, HashForm};

fn parse(line: &str) -> Config {
    Config::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()).unwrap()
}

#[test]
fn every_way_to_start_vllm_is_understood() {
    for line in [
        "vllm serve org/m --port 8001 --served-model-name x y --enable-prefix-caching --block-size=16",
        "serve org/m --served-model-name x y --port=8001 --kv-transfer-config {\"kv_connector\":\"NixlConnector\"}",
        "python3 -m vllm.entrypoints.openai.api_server --model org/m --port 8001 --served-model-name x y --no-enable-chunked-prefill",
        "vllm serve --enable-prefix-caching org/m --port 8001 --served-model-name x y --max-model-len 16k -tp 2",
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
    assert_eq!(
        parse("m --prefill-time-per-token 50us").prefill_time_per_token,
        Duration::from_micros(50)
    );
    assert_eq!(parse("m").served_names, ["m"]);
    assert_eq!(parse("m --max-model-len 2k").max_model_len, 2000);
    assert_eq!(parse("m --max-model-len 2K").max_model_len, 2048);
    for line in [
        "--port x",
        "m --kv-events-config {",
        "m --kv-transfer-config 7",
        "m --lora-modules x",
        "m --time-factor-under-load 0.5",
    ] {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        assert!(Config::parse(&args).is_err(), "{line}");
    }
}

#[test]
fn json_flags_say_where_events_and_kv_cache_go() {
    let config = parse(
        r#"m --kv-events-config {"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://*:15556","replay_endpoint":"tcp://*:15656","topic":"kv@10.0.0.1:8000@m","new":1} --kv-transfer-config={"kv_connector":"NixlConnector","kv_role":"kv_both"} --lora-modules a=/a {"name":"b","path":"/b"}"#,
    );
    let events = config.kv_events.unwrap();
    assert_eq!(events.endpoint, "tcp://*:15556");
    assert_eq!(events.topic, "kv@10.0.0.1:8000@m");
    assert_eq!(events.buffer_steps, 10_000);
    assert!(config.kv_transfer.unwrap().nixl);
    assert_eq!(config.loras[1].name, "b");
    assert_eq!(config.loras[1].id, 2);
    let off = parse(r#"m --kv-events-config {"enable_kv_cache_events":false}"#);
    assert!(off.kv_events.is_none());
    let inside = r#"m --kv-transfer-config {"kv_connector":"MultiConnector","kv_connector_extra_config":{"connectors":[{"kv_connector":"NixlConnector"}]}}"#;
    assert!(parse(inside).kv_transfer.unwrap().nixl);
}

#[test]
fn the_environment_is_stronger_than_flags() {
    let mut config = parse("m --inter-token-latency 9");
    let variables = |name: &str| {
        let value = match name {
            "SIM_INTER_TOKEN_LATENCY_MS" => "0.5",
            "SIM_KV_EVENT_FORM" => "array",
            "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES" | "SIM_ADMIN" => "0",
            "LLM_D_BIND_HOST" => "127.0.0.9",
            _ => return None,
        };
        Some(value.to_owned())
    };
    config.apply_environment(variables).unwrap();
    assert_eq!(config.inter_token_latency, Duration::from_micros(500));
    assert_eq!(config.environment.event_form, Form::Array);
    assert_eq!(config.environment.hash_form, HashForm::Bytes);
    assert!(!config.environment.admin);
    let wrong = |name: &str| (name == "SIM_MAX_NUM_SEQS").then(|| "many".to_owned());
    let error = config.apply_environment(wrong).unwrap_err();
    assert_eq!(
        error.to_string(),
        "SIM_MAX_NUM_SEQS: \"many\" is not a whole number"
    );
}
