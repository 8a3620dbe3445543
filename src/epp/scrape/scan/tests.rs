//! Scanning pages: tables, any bytes, and a naive reader of whole pages to compare with.

use proptest::prelude::*;

use super::*;

fn scan(page: &[u8]) -> Result<Page, ScanError> {
    let mut scanner = Scanner::new();
    scanner.feed(page);
    scanner.finish()
}

/// As vLLM 0.11 writes it, shortened.
const VLLM: &str = r#"# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 12731.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/model"} 3.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="org/model"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="org/model"} 0.25
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.3",model_name="org/model"} 5.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf",model_name="org/model"} 9.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",calculate_kv_scales="False",engine="0",num_cpu_blocks="None",num_gpu_blocks="7824",prefix_caching_hash_algo="sha256"} 1.0
"#;

#[test]
fn a_page_of_vllm_is_read() {
    let page = Page {
        waiting: 7,
        running: 3,
        kv_usage: 0.25,
        block_size: Some(16),
        num_gpu_blocks: Some(7824),
    };
    assert_eq!(scan(VLLM.as_bytes()), Ok(page));
    assert_eq!(scan(VLLM.replace('\n', "\r\n").as_bytes()), Ok(page));
    assert_eq!(
        scan(VLLM.trim_end().as_bytes()),
        Ok(page),
        "no last line end"
    );
}

#[test]
fn a_page_of_sglang_is_read() {
    let page = br#"sglang:num_running_reqs{engine_type="unified",tp_rank="0"} 2
sglang:num_queue_reqs{engine_type="unified",tp_rank="0"} 5
sglang:token_usage{engine_type="unified"} 0.5
sglang:cache_config_info{num_pages="900",page_size="64"} 1
"#;
    assert_eq!(
        scan(page),
        Ok(Page {
            waiting: 5,
            running: 2,
            kv_usage: 0.5,
            block_size: Some(64),
            num_gpu_blocks: Some(900),
        })
    );
}

#[test]
fn engines_of_one_page_add_up_and_their_usage_is_the_mean() {
    let page = br#"vllm:num_requests_waiting{engine="0"} 1
vllm:num_requests_waiting{engine="1"} 4
vllm:num_requests_running{engine="0"} 2
vllm:num_requests_running{engine="1"} 2
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:cache_config_info{engine="0",block_size="32",num_gpu_blocks="10"} 1
vllm:cache_config_info{engine="1",block_size="32",num_gpu_blocks="11"} 1
"#;
    assert_eq!(
        scan(page),
        Ok(Page {
            waiting: 5,
            running: 4,
            kv_usage: 0.5,
            block_size: Some(32),
            num_gpu_blocks: Some(21),
        })
    );
}

#[test]
fn odd_lines_are_read_or_passed_over() {
    let waiting = |line: &str| scan(line.as_bytes()).map(|page| page.waiting);
    for (line, wanted) in [
        ("vllm:num_requests_waiting 4", Ok(4)),
        ("vllm:num_requests_waiting{} 4", Ok(4)),
        ("  vllm:num_requests_waiting\t{ }\t4\t", Ok(4)),
        ("vllm:num_requests_waiting{} 4 1700000000000", Ok(4)),
        ("vllm:num_requests_waiting{} 4 # {trace_id=\"x\"} 1", Ok(4)),
        ("vllm:num_requests_waiting{m=\"a\\\"} 9\"} 4", Ok(4)),
        ("vllm:num_requests_waiting{m=\"{}}\\\\\"} 4", Ok(4)),
        (
            "vllm:num_requests_waiting{m=\"\u{e9}\u{4e2d}\",} 4.0e0",
            Ok(4),
        ),
        ("vllm:num_requests_waiting{m=\"a\"}4", Ok(4)),
        ("vllm:num_requests_waiting 1e30", Ok(u64::MAX)),
        (
            "vllm:num_requests_waiting{m=\"open} 4",
            Err(ScanError::Empty),
        ),
        ("vllm:num_requests_waiting{m=\"a\\", Err(ScanError::Empty)),
        ("vllm:num_requests_waiting", Err(ScanError::Empty)),
        ("vllm:num_requests_waiting{} ", Err(ScanError::Empty)),
        ("vllm:num_requests_waiting NaN", Err(ScanError::Empty)),
        ("vllm:num_requests_waiting +Inf", Err(ScanError::Empty)),
        ("vllm:num_requests_waiting -1", Err(ScanError::Empty)),
        ("vllm:num_requests_waiting four", Err(ScanError::Empty)),
        ("vllm:num_requests_waiting_total 4", Err(ScanError::Empty)),
        ("vllm:num_requests_wait 4", Err(ScanError::Empty)),
        ("# vllm:num_requests_waiting 4", Err(ScanError::Empty)),
        (
            "<html>vllm:num_requests_waiting 4</html>",
            Err(ScanError::Empty),
        ),
        ("", Err(ScanError::Empty)),
        ("\n\n\r\n", Err(ScanError::Empty)),
        ("vllm:num_requests_waiting 4\n\0", Err(ScanError::NotText)),
    ] {
        assert_eq!(waiting(line), wanted, "{line:?}");
    }
}

#[test]
fn one_series_that_is_no_number_does_not_spoil_the_others() {
    let page = b"vllm:kv_cache_usage_perc{engine=\"0\"} NaN
vllm:kv_cache_usage_perc{engine=\"1\"} 0.5
";
    assert_eq!(scan(page).map(|page| page.kv_usage), Ok(0.5));
}

#[test]
fn the_new_name_of_the_usage_wins_over_the_old_one() {
    let both = b"vllm:gpu_cache_usage_perc 0.9\nvllm:kv_cache_usage_perc 0.5\n";
    assert_eq!(scan(both).map(|page| page.kv_usage), Ok(0.5));
    let old = b"vllm:gpu_cache_usage_perc 0.9\n";
    assert_eq!(scan(old).map(|page| page.kv_usage), Ok(0.9));
    let odd = b"vllm:gpu_cache_usage_perc 90\n";
    assert_eq!(scan(odd).map(|page| page.kv_usage), Ok(1.0));
}

#[test]
fn a_cache_that_is_not_sized_yet_says_nothing_about_its_size() {
    let page = br#"vllm:num_requests_waiting 0
vllm:cache_config_info{a="block_size=\"8\"",block_size="16",num_gpu_blocks="None"} 1
"#;
    let page = scan(page).unwrap();
    assert_eq!((page.block_size, page.num_gpu_blocks), (Some(16), None));
}

#[test]
fn a_line_without_end_is_passed_over_and_the_next_one_read() {
    let mut scanner = Scanner::new();
    scanner.feed(b"vllm:num_requests_running{x=\"");
    for _ in 0..100 {
        scanner.feed(&[b'a'; 4096]);
        assert!(scanner.carry.len() <= MAX_LINE_BYTES);
    }
    scanner.feed(b"\"} 3\nvllm:num_requests_waiting 2\n");
    assert_eq!(scanner.long_lines(), 1);
    let page = scanner.finish().unwrap();
    assert_eq!((page.waiting, page.running), (2, 0));

    let mut whole = Scanner::new();
    let line = format!(
        "vllm:num_requests_running{{x=\"{}\"}} 3\n",
        "a".repeat(MAX_LINE_BYTES)
    );
    whole.feed(line.as_bytes());
    whole.feed(b"vllm:num_requests_waiting 2\n");
    assert_eq!(whole.long_lines(), 1);
    assert_eq!(whole.finish().map(|page| page.running), Ok(0));
}

/// One line of a generated page.
#[derive(Clone, Debug)]
enum Line {
    Comment(String),
    Series {
        name: &'static str,
        labels: Vec<(String, String)>,
        value: &'static str,
        timestamp: bool,
    },
}

fn line() -> impl Strategy<Value = Line> {
    let name = prop::sample::select(vec![
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "vllm:cache_config_info",
        "vllm:num_requests_waiting_bucket",
        "sglang:num_queue_reqs",
        "sglang:token_usage",
        "sglang:cache_config_info",
        "process_cpu_seconds_total",
    ]);
    let value = prop::sample::select(vec![
        "0", "0.5", "1", "3.0", "17", "2e1", "NaN", "+Inf", "-Inf", "x",
    ]);
    let label = (
        prop::sample::select(vec![
            "engine",
            "block_size",
            "num_gpu_blocks",
            "page_size",
            "num_pages",
            "m",
        ]),
        prop_oneof![
            "[0-9]{1,6}",
            "[a-z\"\\\\{}=, \u{e9}]{0,8}",
            Just("None".to_owned())
        ],
    )
        .prop_map(|(name, value)| (name.to_owned(), value));
    let labels = prop::collection::btree_map(
        "[a-z]{1,3}|block_size|num_gpu_blocks",
        "[a-z0-9\"\\\\{}=, ]{0,9}|[0-9]{1,5}",
        0..4,
    )
    .prop_map(|map| map.into_iter().collect::<Vec<_>>());
    let labels = prop_oneof![labels, prop::collection::vec(label, 0..2)];
    prop_oneof![
        1 => "[ -~]{0,30}".prop_map(Line::Comment),
        4 => (name, labels, value, any::<bool>()).prop_map(|(name, labels, value, timestamp)| {
            Line::Series { name, labels, value, timestamp }
        }),
    ]
}

fn write(lines: &[Line], end: &str) -> String {
    let mut page = String::new();
    for line in lines {
        match line {
            Line::Comment(text) => page.push_str(&format!("# {text}")),
            Line::Series {
                name,
                labels,
                value,
                timestamp,
            } => {
                page.push_str(name);
                let labels: Vec<String> = labels
                    .iter()
                    .map(|(name, value)| {
                        format!(
                            "{name}=\"{}\"",
                            value.replace('\\', "\\\\").replace('"', "\\\"")
                        )
                    })
                    .collect();
                page.push_str(&format!("{{{}}} {value}", labels.join(",")));
                if *timestamp {
                    page.push_str(" 1700000000000");
                }
            }
        }
        page.push_str(end);
    }
    page
}

/// What the lines say, worked out from the lines and not from the page.
fn naive(lines: &[Line]) -> Result<Page, ScanError> {
    let values = |wanted: &str| -> Vec<f64> {
        lines
            .iter()
            .filter_map(|line| match line {
                Line::Series { name, value, .. } if *name == wanted => value.parse::<f64>().ok(),
                _ => None,
            })
            .filter(|value| value.is_finite() && *value >= 0.0)
            .collect()
    };
    let sum = |name: &str| {
        let values = values(name);
        (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
    };
    let mean = |name: &str| {
        let values = values(name);
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let waiting = sum("vllm:num_requests_waiting").or_else(|| sum("sglang:num_queue_reqs"));
    let running = sum("vllm:num_requests_running");
    let usage = mean("vllm:kv_cache_usage_perc")
        .or_else(|| mean("vllm:gpu_cache_usage_perc"))
        .or_else(|| mean("sglang:token_usage"));
    if waiting.is_none() && running.is_none() && usage.is_none() {
        return Err(ScanError::Empty);
    }
    let mut block_size = None;
    let mut num_gpu_blocks: Option<u64> = None;
    for line in lines {
        let Line::Series { name, labels, .. } = line else {
            continue;
        };
        let again = |wanted: &str| {
            let (_, text) = labels.iter().find(|(name, _)| name == wanted)?;
            text.parse::<u64>().ok()
        };
        let (size, blocks) = match *name {
            "vllm:cache_config_info" => (again("block_size"), again("num_gpu_blocks")),
            "sglang:cache_config_info" => (again("page_size"), again("num_pages")),
            _ => continue,
        };
        block_size = block_size.or(size
            .and_then(|size| u32::try_from(size).ok())
            .filter(|size| *size > 0));
        if let Some(blocks) = blocks {
            num_gpu_blocks = Some(num_gpu_blocks.unwrap_or(0) + blocks);
        }
    }
    Ok(Page {
        waiting: waiting.unwrap_or(0),
        running: running.unwrap_or(0),
        kv_usage: usage.unwrap_or(0.0).min(1.0),
        block_size,
        num_gpu_blocks,
    })
}

proptest! {
    #[test]
    fn any_bytes_in_any_chunks_are_survived(page: Vec<u8>, cuts: Vec<u8>) {
        let whole = scan(&page);
        let mut scanner = Scanner::new();
        feed_in_chunks(&mut scanner, &page, &cuts);
        prop_assert_eq!(scanner.finish(), whole);
    }

    #[test]
    fn bytes_that_look_like_a_page_are_survived(
        page in prop::collection::vec(prop::sample::select(vec![
            &b"vllm:num_requests_waiting"[..], b"vllm:cache_config_info", b"sglang:token_usage",
            b"{", b"}", b"\"", b"\\", b"block_size=", b"=", b",", b" ", b"1", b"\n", b"\r\n", b"#", b"\0", b"\xff",
        ]), 0..60),
        cuts: Vec<u8>,
    ) {
        let page = page.concat();
        let whole = scan(&page);
        let mut scanner = Scanner::new();
        feed_in_chunks(&mut scanner, &page, &cuts);
        prop_assert_eq!(scanner.finish(), whole);
    }

    #[test]
    fn a_generated_page_is_read_as_the_naive_reader_does(
        lines in prop::collection::vec(line(), 0..20),
        crlf: bool,
        cuts: Vec<u8>,
    ) {
        let page = write(&lines, if crlf { "\r\n" } else { "\n" });
        let mut scanner = Scanner::new();
        feed_in_chunks(&mut scanner, page.as_bytes(), &cuts);
        prop_assert_eq!(scanner.finish(), naive(&lines), "{}", page);
    }
}

fn feed_in_chunks(scanner: &mut Scanner, mut page: &[u8], cuts: &[u8]) {
    for cut in cuts {
        let (chunk, rest) = page.split_at(page.len().min(usize::from(*cut)));
        scanner.feed(chunk);
        page = rest;
    }
    scanner.feed(page);
}
