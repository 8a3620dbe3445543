//! Any bytes as the answer of a decode engine, cut anywhere: the editor of its counts never
//! panics, gives the same text however it was cut, and holds no more than its bound. The
//! first byte picks the form and the cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_d_operator::proxy::usage::Editor;

const PATH: &[&str] = &["usage", "prompt_tokens_details", "cached_tokens"];

fuzz_target!(|bytes: &[u8]| {
    let Some((first, text)) = bytes.split_first() else {
        return;
    };
    let editor = || match first & 1 {
        0 => Editor::lines(PATH, 7),
        _ => Editor::whole(PATH, 7),
    };
    let size = usize::from(first >> 1) + 1;
    let run = |size: usize| {
        let (mut editor, mut out) = (editor(), Vec::new());
        for piece in text.chunks(size) {
            out.extend(editor.push(piece));
        }
        out.extend(editor.finish());
        out
    };
    assert_eq!(run(size), run(text.len().max(1)));
});
