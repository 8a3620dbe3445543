//! Numbers -> the texts that the test sends. PURE: the same numbers always give the same
//! text, on every machine, so that runs can be compared.
#![deny(clippy::disallowed_methods)]

/// The one prompt of the plain test: about 120 words in the manner of a consulting brief, with
/// five numbered requirements. Its length in tokens decides the ceiling: as in the published
/// test it is 158 with a chat template's frame (in the simulator's tokens), nine full blocks of
/// 16 and a rest.
pub const PROMPT: &str = "You advise the leaders of engineering teams. Study the case below and write a \
recommendation. A bank is moving the assistant behind its help desk to a cluster of model \
servers that it runs itself and expects 10,000 people to use it at the same time. It sets \
five requirements: 1) the first word of an answer comes within 200 milliseconds 2) the \
service is up day and night 3) all teams share one budget for the hardware 4) capacity \
follows the peaks of the day and 5) sign-in and audit use the systems already in place. \
Describe the design, the rollout and the risks you expect. Prefer practical advice and say \
what you would measure first and also why.";

/// What the health check says.
pub const HEALTH_CHECK: &str = "healthcheck";

const SUBJECTS: &[&str] = &[
    "the night shift",
    "a regional office",
    "the claims desk",
    "each supplier",
    "the audit team",
    "a new colleague",
    "the warehouse",
    "our partner bank",
    "the support line",
    "a field engineer",
    "the records room",
    "every manager",
];
const ACTIONS: &[&str] = &[
    "confirms",
    "records",
    "reviews",
    "escalates",
    "archives",
    "forwards",
    "approves",
    "measures",
    "schedules",
    "compares",
    "reports",
    "closes",
];
const OBJECTS: &[&str] = &[
    "open orders",
    "refund requests",
    "delivery notes",
    "access rights",
    "meter readings",
    "price changes",
    "customer letters",
    "safety checks",
    "contract terms",
    "travel costs",
    "stock counts",
    "incident logs",
];
const TIMES: &[&str] = &[
    "before noon",
    "within two days",
    "at the end of the month",
    "after the morning call",
    "once a quarter",
    "on the same day",
    "every Tuesday",
    "before the branch opens",
];

/// A step of SplitMix64: spreads a small number over 64 bits.
fn spread(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn pick<'a>(state: &mut u64, list: &[&'a str]) -> &'a str {
    list[(spread(state) % list.len() as u64) as usize]
}

/// The system prompt of one prefix group: a made-up handbook of at least `words` words.
/// Handbooks of different groups differ from their third word on.
pub fn handbook(group: usize, words: usize) -> String {
    let mut state = group as u64;
    let mut text = format!(
        "Handbook number {} for the help desk. Answer from these rules only.",
        group + 1
    );
    let mut count = text.split_whitespace().count();
    let mut rule = 1;
    while count < words {
        let sentence = format!(
            " Rule {rule}: {} {} {} {}.",
            pick(&mut state, SUBJECTS),
            pick(&mut state, ACTIONS),
            pick(&mut state, OBJECTS),
            pick(&mut state, TIMES),
        );
        count += sentence.split_whitespace().count();
        text.push_str(&sentence);
        rule += 1;
    }
    text
}

/// The question of one request: another one for every session and turn.
pub fn question(session: usize, turn: usize) -> String {
    let mut state = ((session as u64) << 32) | turn as u64;
    format!(
        "Case {}-{}: {} asks who {} {} {}. Which rules apply, and in what order?",
        session + 1,
        turn + 1,
        pick(&mut state, SUBJECTS),
        pick(&mut state, ACTIONS),
        pick(&mut state, OBJECTS),
        pick(&mut state, TIMES),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_is_about_as_long_as_the_published_one() {
        let words = PROMPT.split_whitespace().count();
        assert!((120..=140).contains(&words), "{words} words");
        for number in 1..=5 {
            assert!(PROMPT.contains(&format!("{number}) ")));
        }
    }

    #[test]
    fn handbooks_are_long_enough_and_part_ways_early() {
        let (first, second) = (handbook(0, 300), handbook(1, 300));
        assert!(first.split_whitespace().count() >= 300);
        let shared = first
            .split_whitespace()
            .zip(second.split_whitespace())
            .take_while(|(left, right)| left == right)
            .count();
        assert_eq!(shared, 2);
        assert_eq!(first, handbook(0, 300));
    }

    #[test]
    fn no_two_questions_are_the_same() {
        let mut all: Vec<_> = (0..20)
            .flat_map(|session| (0..20).map(move |turn| question(session, turn)))
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 400);
    }
}
