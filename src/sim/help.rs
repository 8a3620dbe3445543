//! What `inference-sim --help` prints. PURE.

/// The whole text.
pub const TEXT: &str = r#"inference-sim: a stand-in for vLLM without a GPU

Usage: inference-sim [vllm] [serve] [MODEL] [vLLM flags]

Every flag of vLLM is accepted. These are read; the others are listed in the log.

Model
  --model M, --tokenizer DIR      a folder with tokenizer.json is used as vLLM would;
                                  otherwise a built-in tokenizer makes tokens of like length
  --served-model-name N ...       --lora-modules NAME=PATH ...      --max-loras N
  --max-model-len N               longest prompt and answer [8192]
  --port P                        [8000]
  --mode random|echo              what is answered

APIs, as vLLM 0.32 reads and answers them
  /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages, /inference/v1/generate
  with lists of prompts, n, logprobs, echo, stop strings, tools (called with made-up arguments);
  .../render, /v1/messages/count_tokens, /tokenize, /detokenize; embeddings, pooling, classes,
  scores and ranks made of the text; a WebSocket at /v1/realtime; and what only operators may
  reach: /sleep, /wake_up, /is_sleeping, /reset_prefix_cache, /collective_rpc, ...
  An answer is made of what the KV cache holds, the seed and the sample's number.

Scheduler and KV cache
  --max-num-seqs N                requests that run at once [256]
  --max-num-batched-tokens N      tokens in a step [8192]
  --[no-]enable-chunked-prefill   [on]
  --max-waiting-queue-length N    requests that may wait; more get status 429 [1000]
  --block-size N                  tokens in a block [16]
  --num-gpu-blocks-override N     blocks, also --kv-cache-size [8192]
  --[no-]enable-prefix-caching    [on]
  --kv-events-config JSON         publishes cache events over ZeroMQ, with replay
  --kv-transfer-config JSON       NixlConnector: prompts computed by one engine, answered by another

Speed (milliseconds, or with a unit: 50us, 2ms, 1s)
  --time-to-first-token T         of an uncached prompt of any length, instead of the next two
  --prefill-overhead T            [5]      --prefill-time-per-token T            [0.05]
  --inter-token-latency T         [2]      --kv-cache-transfer-time-per-token T  [0.005]
  --time-factor-under-load F      how much slower a full engine is [1]
  --startup-duration T            before the first request is taken [0]

Environment
  SIM_TIME_TO_FIRST_TOKEN_MS SIM_PREFILL_OVERHEAD_MS SIM_PREFILL_TIME_PER_TOKEN_MS
  SIM_INTER_TOKEN_LATENCY_MS SIM_KV_CACHE_TRANSFER_TIME_PER_TOKEN_MS SIM_TIME_FACTOR_UNDER_LOAD
  SIM_STARTUP_DURATION_MS SIM_NUM_GPU_BLOCKS SIM_BLOCK_SIZE SIM_MAX_NUM_SEQS SIM_MAX_WAITING
  SIM_TOKENIZER                   stronger than the flags of the same names
  SIM_KV_EVENT_FORM=map|array     as vLLM from 0.24 on, or before [map]
  SIM_OLD_METRIC_NAMES=1          vllm:gpu_cache_usage_perc, vllm:gpu_prefix_cache_*
  SIM_ADMIN=0                     no /sim/faults
  VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES, VLLM_NIXL_SIDE_CHANNEL_HOST, VLLM_NIXL_SIDE_CHANNEL_PORT,
  VLLM_NIXL_ABORT_REQUEST_TIMEOUT, PYTHONHASHSEED, POD_NAME, LLM_D_BIND_HOST, LOG_LEVEL

Faults: GET, POST and DELETE /sim/faults with any of
  {"fail": {"next": 3, "percent": 0, "status": 503, "message": "..."},
   "hang": {"next": 1}, "disconnect": {"next": 1, "after": 4}, "slow_factor": 10,
   "metrics": "huge|empty|binary|error|hang", "health_status": 500,
   "events": {"drop_next": 2, "stop": true, "reset_sequence": true,
              "publish": ["garbage", "unknown_type", "out_of_order", "unknown_parent",
                          "other_model", "duplicate"]}}"#;
