//! What a decision is made by: which profiles run, and each one's filters, scorers and picker.
//! PURE data; every part owns its parameters.

use super::filter::Filter;
use super::picker::Picker;
use super::scorer::{Scorer, SessionAffinity};

/// Everything the scheduler is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// Which profiles run beside the first one, and when.
    pub handler: ProfileHandler,
    /// Chooses the endpoint that answers.
    pub decode: Profile,
}

/// Which profiles run.
#[derive(Clone, Debug, PartialEq)]
pub enum ProfileHandler {
    /// The first one alone.
    Single,
    /// After it, where the decider says so, one for the endpoint that computes the prompt.
    Disagg {
        /// Chooses that endpoint.
        prefill: Profile,
        /// Says when one is looked for.
        decider: Decider,
    },
}

/// Filters, scorers and a picker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Its name in configurations.
    pub name: String,
    /// In the order in which they run.
    pub filters: Vec<Filter>,
    /// In the order in which they are explained.
    pub scorers: Vec<WeightedScorer>,
    /// Picks by their scores.
    pub picker: Picker,
}

/// A scorer and how much it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedScorer {
    /// The scorer.
    pub scorer: Scorer,
    /// Its weight.
    pub weight: Weight,
}

/// A weight: finite, from 0, which is the same as no scorer, to [`Weight::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Weight(f64);

impl Weight {
    /// The largest weight: sums of weighted scores stay exact enough to compare.
    pub const MAX: f64 = 1_000_000.0;
    /// What a scorer counts where nobody says.
    pub const ONE: Self = Self(1.0);

    /// `None` for what is not a number from 0 to [`Weight::MAX`].
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=Self::MAX).contains(&value).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// Says whether a prompt is computed on an endpoint of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decider {
    /// Whenever there is a prompt.
    Always,
    /// When the decode endpoint lacks at least as many characters of it: the environment's.
    CharThreshold {
        /// Characters.
        chars: usize,
        /// Count only what the decode endpoint lacks.
        cache_aware: bool,
    },
    /// When the decode endpoint lacks at least as many tokens of it, and it is long enough.
    PrefixBased {
        /// Tokens that the decode endpoint lacks; 0 means never.
        non_cached_tokens: usize,
        /// Tokens of the whole prompt; 0 means any.
        prompt_tokens: usize,
    },
}

impl Decider {
    /// The type's name in configurations.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Always => "always-disagg-pd-decider",
            Self::CharThreshold { .. } => "char-threshold-pd-decider",
            Self::PrefixBased { .. } => "prefix-based-pd-decider",
        }
    }
}

impl ProfileHandler {
    /// The type's name in configurations.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Single => "single-profile-handler",
            Self::Disagg { .. } => "disagg-profile-handler",
        }
    }
}

impl Pipeline {
    /// The profiles that may run, the first one first.
    pub fn profiles(&self) -> impl Iterator<Item = &Profile> {
        let prefill = match &self.handler {
            ProfileHandler::Single => None,
            ProfileHandler::Disagg { prefill, .. } => Some(prefill),
        };
        std::iter::once(&self.decode).chain(prefill)
    }

    /// Scorers that act, in any profile.
    fn acting(&self) -> impl Iterator<Item = &Scorer> {
        self.profiles()
            .flat_map(|profile| &profile.scorers)
            .filter(|weighted| weighted.weight.get() > 0.0)
            .map(|weighted| &weighted.scorer)
    }

    /// Scorers that keep sessions together; all agree on how sessions are recognised.
    pub(super) fn session_affinities(&self) -> impl Iterator<Item = &SessionAffinity> {
        self.acting().filter_map(|scorer| match scorer {
            Scorer::SessionAffinity(affinity) => Some(affinity),
            _ => None,
        })
    }

    /// How sessions are recognised; `None` when no profile keeps them together.
    pub fn session_affinity(&self) -> Option<&SessionAffinity> {
        self.session_affinities().next()
    }

    /// True when a profile scores by the engines' own KV cache, so engines must publish
    /// KV events.
    pub fn uses_kv_events(&self) -> bool {
        self.acting()
            .any(|scorer| matches!(scorer, Scorer::PreciseCache(_)))
    }

    /// True when it matters where the beginnings of prompts have been sent: for a scorer, or
    /// for whether a prompt is worth a prefill of its own.
    pub fn uses_prefixes(&self) -> bool {
        self.may_disaggregate()
            || self
                .acting()
                .any(|scorer| matches!(scorer, Scorer::PreciseCache(_) | Scorer::PrefixCache(_)))
    }

    /// True when prompts may be computed on endpoints of their own.
    pub fn may_disaggregate(&self) -> bool {
        matches!(self.handler, ProfileHandler::Disagg { .. })
    }

    /// True when a profile filters by labels.
    pub fn uses_labels(&self) -> bool {
        self.profiles()
            .flat_map(|profile| &profile.filters)
            .any(Filter::reads_labels)
    }
}
