//! KV events and the passing of KV cache, over real sockets.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::{DEADLINE, TestSim};
use crate::kv::blocks::engine::{Extra, none_hash, sha256_cbor};
use crate::kv::event::{Batch, Event, Form, HashForm, Reason, decode};
use crate::sim::cli::Config;
use crate::zmtp::{DealerSocket, SocketSettings, SubSocket};

const TOPIC: &str = "kv@127.0.0.1:8000@m";
const EVENTS: &str =
    r#"{"enable_kv_cache_events":true,"endpoint":"tcp://*:0","topic":"kv@127.0.0.1:8000@m"}"#;

/// A port of its own for every simulator: the configuration takes port 0.
fn publishing(config: &mut Config) {
    let events = config.kv_events.as_mut().unwrap();
    events.endpoint = "tcp://*:0".to_owned();
    events.replay_endpoint = Some("tcp://*:0".to_owned());
    config.environment.bind_host = Some("127.0.0.1".parse().unwrap());
    config.environment.hash_seed = Some("42".to_owned());
}

async fn publisher(change: impl FnOnce(&mut Config)) -> (TestSim, SubSocket) {
    let sim = TestSim::start_with(&["--kv-events-config", EVENTS], |config| {
        publishing(config);
        change(config);
    })
    .await;
    let settings = SocketSettings::default();
    let socket = SubSocket::connect(&sim.running.events.events, b"kv@", &settings).await;
    let mut socket = socket.unwrap();
    // A subscription takes time to arrive, and what is published before is lost.
    loop {
        sim.post(
            "/sim/faults",
            &json!({"events": {"publish": ["other_model"]}}),
        )
        .await;
        let pause = std::time::Duration::from_millis(50);
        if tokio::time::timeout(pause, socket.receive()).await.is_ok() {
            break;
        }
    }
    while let Ok(Ok(_)) =
        tokio::time::timeout(std::time::Duration::from_millis(100), socket.receive()).await
    {}
    sim.post("/sim/faults", &json!({"events": {"reset_sequence": true}}))
        .await;
    (sim, socket)
}

struct Heard {
    topic: String,
    number: u64,
    payload: Bytes,
}

impl Heard {
    fn batch(&self) -> Batch {
        decode(&self.payload).unwrap()
    }
}

async fn hear(socket: &mut SubSocket) -> Heard {
    let frames = tokio::time::timeout(DEADLINE, socket.receive())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(frames.len(), 3);
    Heard {
        topic: String::from_utf8(frames[0].to_vec()).unwrap(),
        number: u64::from_be_bytes(frames[1][..].try_into().unwrap()),
        payload: frames[2].clone(),
    }
}

fn completion(tokens: &[u32], max_tokens: usize) -> Value {
    json!({"model": "m", "prompt": tokens, "max_tokens": max_tokens})
}

#[tokio::test]
async fn a_subscriber_hears_vllms_own_hashes_in_both_forms() {
    for (form, hashes) in [(Form::Map, HashForm::Int), (Form::Array, HashForm::Bytes)] {
        let (sim, mut socket) = publisher(|config| {
            config.environment.event_form = form;
            config.environment.hash_form = hashes;
        })
        .await;
        let tokens: Vec<u32> = (0..40).collect();
        sim.post("/v1/completions", &completion(&tokens, 1)).await;
        let heard = hear(&mut socket).await;
        assert_eq!((heard.topic.as_str(), heard.number), (TOPIC, 0));
        let batch = heard.batch();
        assert_eq!(batch.rank, Some(0));
        assert!(batch.timestamp_seconds > 1e9);
        let [Event::Stored(stored)] = &batch.events[..] else {
            panic!("{batch:?}");
        };
        // Known from vLLM itself, for this seed.
        assert_eq!(
            stored.hashes,
            [2_863_503_375_995_570_957, 13_957_787_785_847_563_040]
        );
        let first = sha256_cbor(&none_hash(Some("42")), &tokens[..16], &Extra::default());
        assert_eq!(stored.hashes[0], first.as_u64());
        assert_eq!(stored.parent, None);
        assert_eq!(stored.tokens, &tokens[..32]);
        assert_eq!(stored.block_size, 16);
        // 40 tokens and 8 generated: the third block is full and follows the second.
        sim.post("/v1/completions", &completion(&tokens, 9)).await;
        let batch = hear(&mut socket).await.batch();
        let [Event::Stored(stored)] = &batch.events[..] else {
            panic!("{batch:?}");
        };
        assert_eq!(stored.parent, Some(13_957_787_785_847_563_040));
        assert_eq!(stored.hashes.len(), 1);
        assert_eq!(stored.tokens[..8], tokens[32..]);
        sim.post("/reset_prefix_cache", &json!({})).await;
        let cleared = hear(&mut socket).await;
        assert_eq!(
            (cleared.number, cleared.batch().events),
            (2, vec![Event::Cleared])
        );
        sim.stop().await;
    }
}

#[tokio::test]
async fn salts_and_adapters_are_named_and_keep_caches_apart() {
    let (sim, mut socket) = publisher(|config| {
        config.loras = vec![crate::sim::engine::Lora {
            id: 1,
            name: "adapter".to_owned(),
            path: "/p".to_owned(),
        }];
    })
    .await;
    let tokens: Vec<u32> = (0..17).collect();
    let mut salted = completion(&tokens, 1);
    salted["cache_salt"] = json!("abc");
    sim.post("/v1/completions", &salted).await;
    let batch = hear(&mut socket).await.batch();
    let [Event::Stored(stored)] = &batch.events[..] else {
        panic!("{batch:?}");
    };
    assert_eq!(stored.salt.as_deref(), Some("abc"));
    assert_eq!(stored.hashes, [12_492_325_922_080_366_639]);
    let mut adapted = completion(&tokens, 1);
    adapted["model"] = json!("adapter");
    let reply = sim.post("/v1/completions", &adapted).await.json();
    assert_eq!(reply["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let batch = hear(&mut socket).await.batch();
    let [Event::Stored(stored)] = &batch.events[..] else {
        panic!("{batch:?}");
    };
    assert_eq!(stored.lora.as_deref(), Some("adapter"));
    sim.stop().await;
}

async fn replay(address: &str, from: u64) -> Vec<(u64, Bytes)> {
    let socket = DealerSocket::connect(address, &SocketSettings::default()).await;
    let mut socket = socket.unwrap();
    let request = [Bytes::new(), from.to_be_bytes().to_vec().into()];
    socket.send(&request).await.unwrap();
    let mut batches = Vec::new();
    loop {
        let frames = tokio::time::timeout(DEADLINE, socket.receive())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(frames.len(), 4);
        let number = u64::from_be_bytes(frames[2][..].try_into().unwrap());
        if number == u64::MAX {
            return batches;
        }
        assert_eq!(frames[1], TOPIC);
        batches.push((number, frames[3].clone()));
    }
}

#[tokio::test]
async fn lost_batches_leave_a_gap_and_can_be_replayed() {
    let (sim, mut socket) = publisher(|_| {}).await;
    sim.post("/sim/faults", &json!({"events": {"drop_next": 2}}))
        .await;
    for at in 0..3 {
        let tokens: Vec<u32> = (at * 100..at * 100 + 20).collect();
        sim.post("/v1/completions", &completion(&tokens, 1)).await;
    }
    let heard = hear(&mut socket).await;
    assert_eq!(heard.number, 2);
    let replayed = replay(sim.running.events.replay.as_ref().unwrap(), 1).await;
    let numbers: Vec<u64> = replayed.iter().map(|batch| batch.0).collect();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(replayed[1].1, heard.payload);
    assert_eq!(sim.count("sim:kv_event_batches_lost_total").await, 2);
    sim.stop().await;
}

#[tokio::test]
async fn odd_batches_look_as_odd_as_they_should() {
    let (sim, mut socket) = publisher(|_| {}).await;
    let all = json!([
        "garbage",
        "unknown_type",
        "out_of_order",
        "unknown_parent",
        "other_model",
        "duplicate"
    ]);
    let tokens: Vec<u32> = (0..20).collect();
    sim.post("/v1/completions", &completion(&tokens, 1)).await;
    let first = hear(&mut socket).await;
    sim.post("/sim/faults", &json!({"events": {"publish": all}}))
        .await;
    assert!(decode(&hear(&mut socket).await.payload).is_err());
    let unknown = hear(&mut socket).await.batch();
    assert_eq!(unknown.rejected[0].reason, Reason::UnknownType);
    assert_eq!(unknown.events.len(), 1);
    assert_eq!(hear(&mut socket).await.number, 4);
    assert_eq!(hear(&mut socket).await.number, 3);
    let orphan = hear(&mut socket).await.batch();
    assert!(matches!(&orphan.events[..], [Event::Stored(stored)] if stored.parent.is_some()));
    assert_eq!(hear(&mut socket).await.topic, format!("{TOPIC}-other"));
    let again = hear(&mut socket).await;
    assert_eq!((again.number, again.payload), (0, first.payload));
    sim.post("/sim/faults", &json!({"events": {"reset_sequence": true}}))
        .await;
    let tokens: Vec<u32> = (100..120).collect();
    sim.post("/v1/completions", &completion(&tokens, 1)).await;
    assert_eq!(hear(&mut socket).await.number, 0);
    sim.stop().await;
}

#[tokio::test]
async fn peers_that_break_the_rules_are_counted_and_the_others_served() {
    let (sim, mut socket) = publisher(|_| {}).await;
    let replay_address = sim.running.events.replay.clone().unwrap();
    for address in [&sim.running.events.events, &replay_address] {
        let address = address.strip_prefix("tcp://").unwrap();
        let mut peer = tokio::net::TcpStream::connect(address).await.unwrap();
        // A frame of 2^40 bytes where a greeting belongs.
        peer.write_all(b"\x02\0\0\x01\0\0\0\0\0").await.unwrap();
        let closed = tokio::time::timeout(DEADLINE, peer.read_to_end(&mut Vec::new())).await;
        closed.expect("it is dropped").ok();
    }
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut at = 0;
    while sim.count("sim:kv_event_peers_dropped_total").await < 2 {
        assert!(tokio::time::Instant::now() < deadline);
        at += 1;
        let tokens: Vec<u32> = (at * 100..at * 100 + 20).collect();
        sim.post("/v1/completions", &completion(&tokens, 1)).await;
    }
    assert_eq!(hear(&mut socket).await.number, 0);
    assert!(!replay(&replay_address, 0).await.is_empty());
    assert_eq!(sim.count("sim:kv_event_messages_dropped_total").await, 0);
    sim.stop().await;
}

#[tokio::test]
async fn an_endpoint_without_a_wildcard_is_dialled() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let sim = TestSim::start_with(&["--kv-events-config", EVENTS], |config| {
        config.kv_events.as_mut().unwrap().endpoint = address;
    })
    .await;
    let accepted = tokio::time::timeout(DEADLINE, listener.accept()).await;
    let (stream, _) = accepted.unwrap().unwrap();
    let socket = SubSocket::accepted(stream, b"", &SocketSettings::default()).await;
    let mut socket = socket.unwrap();
    // The first batches may come before the subscription does.
    let mut at = 0;
    let heard = loop {
        at += 1;
        let tokens: Vec<u32> = (at * 100..at * 100 + 20).collect();
        sim.post("/v1/completions", &completion(&tokens, 1)).await;
        let pause = std::time::Duration::from_millis(50);
        if let Ok(heard) = tokio::time::timeout(pause, socket.receive()).await {
            break heard.unwrap();
        }
        assert!(at < 400);
    };
    assert_eq!(heard[0], TOPIC);
    sim.stop().await;
}

// === prefill here, decode there ===

const NIXL: &str = r#"{"kv_connector":"NixlConnector","kv_role":"kv_both"}"#;

async fn nixl(flags: &[&str]) -> TestSim {
    let flags: Vec<&str> = ["--kv-transfer-config", NIXL]
        .iter()
        .chain(flags)
        .copied()
        .collect();
    TestSim::start_with(&flags, |config| {
        config.environment.side_channel_host = "127.0.0.1".to_owned();
        config.environment.side_channel_port = 0;
    })
    .await
}

async fn prefill(sim: &TestSim, tokens: &[u32]) -> Value {
    let mut body = completion(tokens, 1);
    body["kv_transfer_params"] = json!({
        "do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": null,
        "remote_block_ids": null, "remote_host": null, "remote_port": null,
    });
    sim.post("/v1/completions", &body).await.json()["kv_transfer_params"].clone()
}

async fn decode_at(sim: &TestSim, tokens: &[u32], parameters: Value) -> Value {
    let mut body = completion(tokens, 4);
    body["kv_transfer_params"] = parameters;
    sim.post("/v1/completions", &body).await.json()
}

#[tokio::test]
async fn one_engine_computes_a_prompt_and_another_answers_it() {
    // So slow that the decoder cannot have computed the prompt itself.
    let prefiller = nixl(&[]).await;
    let decoder = nixl(&["--prefill-time-per-token", "10s"]).await;
    let tokens: Vec<u32> = (0..100).collect();
    let parameters = prefill(&prefiller, &tokens).await;
    assert_eq!(parameters["do_remote_prefill"], true);
    assert_eq!(parameters["do_remote_decode"], false);
    assert_eq!(parameters["remote_block_ids"].as_array().unwrap().len(), 7);
    assert_eq!(
        parameters["remote_port"],
        prefiller.running.side_channel.unwrap().port()
    );
    assert!(prefiller.thousandths("vllm:kv_cache_usage_perc").await > 0);
    let answer = decode_at(&decoder, &tokens, parameters.clone()).await;
    assert_eq!(
        answer["usage"]["prompt_tokens_details"]["cached_tokens"],
        100
    );
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    assert_eq!(text(&answer), text(&answer_of(&tokens).await));
    assert_eq!(
        decoder.count("vllm:external_prefix_cache_hits_total").await,
        100
    );
    assert_eq!(decoder.count("vllm:prefix_cache_hits_total").await, 0);
    prefiller.stop().await;
    decoder.stop().await;
}

#[tokio::test]
async fn fetched_blocks_are_free_and_who_fetches_them_twice_gets_what_is_there() {
    let (prefiller, decoder) = (nixl(&[]).await, nixl(&[]).await);
    let tokens: Vec<u32> = (0..100).collect();
    let parameters = prefill(&prefiller, &tokens).await;
    decode_at(&decoder, &tokens, parameters.clone()).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while prefiller.thousandths("vllm:kv_cache_usage_perc").await > 0 {
        assert!(tokio::time::Instant::now() < deadline);
    }
    assert_eq!(prefiller.count("sim:held_requests").await, 0);
    assert_eq!(prefiller.count("sim:unheld_reads_total").await, 0);
    // NIXL reads memory, and nobody asks whose it is by then.
    let other: Vec<u32> = (500..600).collect();
    let wrong = decode_at(&decoder, &other, parameters).await;
    assert_eq!(
        wrong["usage"]["prompt_tokens_details"]["cached_tokens"],
        100
    );
    assert_ne!(text(&wrong), text(&answer_of(&other).await));
    assert_eq!(prefiller.count("sim:unheld_reads_total").await, 1);
    prefiller.stop().await;
    decoder.stop().await;
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

/// What an engine of its own says to this prompt.
async fn answer_of(tokens: &[u32]) -> Value {
    let sim = TestSim::start(&[]).await;
    let answer = sim.post("/v1/completions", &completion(tokens, 4)).await;
    sim.stop().await;
    answer.json()
}

#[tokio::test]
async fn a_dead_prefiller_costs_time_and_not_the_answer() {
    let (prefiller, decoder) = (nixl(&[]).await, nixl(&[]).await);
    let tokens: Vec<u32> = (0..100).collect();
    let parameters = prefill(&prefiller, &tokens).await;
    prefiller.stop().await;
    let answer = decode_at(&decoder, &tokens, parameters).await;
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(
        decoder.count("vllm:nixl_num_failed_transfers_total").await,
        1
    );
    decoder.stop().await;
}

#[tokio::test]
async fn without_a_connector_transfer_parameters_change_nothing() {
    let sim = TestSim::start(&[]).await;
    let tokens: Vec<u32> = (0..20).collect();
    assert_eq!(prefill(&sim, &tokens).await, Value::Null);
    assert_eq!(sim.count("sim:ignored_transfers_total").await, 1);
    sim.stop().await;
}

// === what one transfer cannot serve ===

async fn prefilled(sim: &TestSim, body: &Value) -> Value {
    let mut body = body.clone();
    body["max_tokens"] = json!(1);
    body["kv_transfer_params"] = json!({"do_remote_decode": true, "do_remote_prefill": false});
    let answer = sim.post("/v1/completions", &body).await.json();
    answer["kv_transfer_params"].clone()
}

#[tokio::test]
async fn all_prompts_of_a_list_are_decoded_on_the_first_ones_kv_cache() {
    let (prefiller, decoder) = (nixl(&[]).await, nixl(&[]).await);
    let prompts: Vec<Vec<u32>> = vec![(0..100).collect(), (500..600).collect()];
    let mut body = json!({"model": "m", "prompt": prompts, "max_tokens": 8});
    let right = decoder.post("/v1/completions", &body).await.json();
    sim_reset(&decoder).await;
    body["kv_transfer_params"] = prefilled(&prefiller, &body).await;
    // The blocks of the second prompt are never asked for.
    assert_eq!(prefiller.count("sim:held_requests").await, 2);
    let wrong = decoder.post("/v1/completions", &body).await.json();
    assert_eq!(wrong["choices"][0]["text"], right["choices"][0]["text"]);
    assert_ne!(wrong["choices"][1]["text"], right["choices"][1]["text"]);
    assert_eq!(prefiller.count("sim:held_requests").await, 1);
    prefiller.stop().await;
    decoder.stop().await;
}

async fn sim_reset(sim: &TestSim) {
    let reset = sim.post("/reset_prefix_cache", &json!({})).await.json();
    assert_eq!(reset["success"], true);
}

#[tokio::test]
async fn samples_of_a_prefill_strand_its_blocks() {
    let (prefiller, decoder) = (nixl(&[]).await, nixl(&[]).await);
    let tokens: Vec<u32> = (0..100).collect();
    let mut body = json!({"model": "m", "prompt": tokens, "max_tokens": 8, "n": 3});
    let right = decoder.post("/v1/completions", &body).await.json();
    sim_reset(&decoder).await;
    body["kv_transfer_params"] = prefilled(&prefiller, &body).await;
    assert_eq!(prefiller.count("sim:held_requests").await, 3);
    let answer = decoder.post("/v1/completions", &body).await.json();
    assert_eq!(answer["choices"], right["choices"]);
    assert_eq!(prefiller.count("sim:held_requests").await, 2);
    prefiller.stop().await;
    decoder.stop().await;
}

#[tokio::test]
async fn logprobs_of_a_prompt_that_was_computed_elsewhere_break_the_engine() {
    let (prefiller, decoder) = (nixl(&[]).await, nixl(&[]).await);
    let tokens: Vec<u32> = (0..100).collect();
    let mut body = json!({"model": "m", "prompt": tokens, "max_tokens": 8});
    body["kv_transfer_params"] = prefilled(&prefiller, &body).await;
    for (key, value) in [("prompt_logprobs", json!(1)), ("echo", json!(true))] {
        let mut body = body.clone();
        body[key] = value;
        body["logprobs"] = json!(1);
        let reply = decoder.post("/v1/completions", &body).await;
        assert_eq!(reply.status, 500, "{}", reply.text);
        assert_eq!(reply.json()["error"]["type"], "InternalServerError");
    }
    assert_eq!(decoder.count("sim:broken_transfers_total").await, 2);
    // Without the transfer there is nothing wrong with them.
    body["kv_transfer_params"] = Value::Null;
    body["prompt_logprobs"] = json!(1);
    let whole = decoder.post("/v1/completions", &body).await.json();
    let told = whole["choices"][0]["prompt_logprobs"].as_array().unwrap();
    assert_eq!(told.len(), 100);
    assert_eq!(told[0], Value::Null);
    assert_eq!(told[1]["1"]["rank"], 1);
    prefiller.stop().await;
    decoder.stop().await;
}

#[tokio::test]
async fn a_refused_request_gives_back_what_was_computed_for_it() {
    let (prefiller, decoder) = (nixl(&[]).await, nixl(&[]).await);
    let tokens: Vec<u32> = (0..100).collect();
    let mut body = completion(&tokens, 4);
    body["kv_transfer_params"] = prefilled(&prefiller, &body).await;
    body["max_tokens"] = json!(4.5);
    // The engine does not come to know of a body of the wrong types.
    assert_eq!(decoder.post("/v1/completions", &body).await.status, 400);
    assert_eq!(prefiller.count("sim:held_requests").await, 1);
    body["max_tokens"] = json!(4);
    body["top_p"] = json!(0);
    assert_eq!(decoder.post("/v1/completions", &body).await.status, 400);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while prefiller.count("sim:held_requests").await > 0 {
        assert!(tokio::time::Instant::now() < deadline);
    }
    prefiller.stop().await;
    decoder.stop().await;
}
