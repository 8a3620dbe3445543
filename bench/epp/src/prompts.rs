//! Numbers -> chat requests: words as prose has them, five sixths of a prompt shared by one of
//! 20 groups, the rest its own. PURE; the same numbers give the same bytes.

use bytes::Bytes;

/// How many groups share a beginning.
pub const GROUPS: usize = 20;
/// The model that requests name.
pub const MODEL: &str = "m";
/// All words of all prompts; the tokenizer knows each as one token.
pub const WORDS: [&str; 24] = [
    "amber", "bridge", "candle", "desert", "ember", "forest", "garden", "harbor", "island",
    "jacket", "kettle", "lantern", "meadow", "needle", "orchard", "pepper", "quarry", "ribbon",
    "saddle", "timber", "umbrella", "velvet", "window", "yellow",
];

/// A stream of numbers that looks random (splitmix64).
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_F491_4F6C_DD1D))
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// About `chars` characters of words.
pub fn text(chars: usize, seed: u64) -> String {
    let mut numbers = Numbers::new(seed);
    let mut text = String::with_capacity(chars + 10);
    while text.len() < chars {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS[numbers.draw() as usize % WORDS.len()]);
    }
    text
}

/// Requests with prompts of one length.
pub struct Prompts {
    chars: usize,
    groups: Vec<String>,
}

impl Prompts {
    /// Prompts of about `chars` characters.
    pub fn new(chars: usize) -> Self {
        let groups = (0..GROUPS)
            .map(|group| text(chars * 5 / 6, group as u64))
            .collect();
        Self { chars, groups }
    }

    /// The request with this number.
    pub fn body(&self, number: u64) -> Bytes {
        let group = &self.groups[number as usize % GROUPS];
        let own = text(self.chars / 6, number + 1_000_000);
        Bytes::from(format!(
            "{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"system\",\"content\":\"{group}\"}},\
             {{\"role\":\"user\",\"content\":\"{own}\"}}],\"max_tokens\":16}}"
        ))
    }
}
