//! Condition types and reasons of a ModelService as closed sets, and the one way to
//! put a condition into a list. PURE; the time is an argument.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types beside those mirrored from the Deployments.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConditionType {
    /// Requests can be answered: everything below is true.
    Ready,
    /// Work is under way; kstatus reads it as "InProgress".
    Reconciling,
    /// Nothing will change until a user changes something; kstatus reads it as "Failed".
    Stalled,
    /// The base ConfigMap exists, renders, decodes and merges.
    BaseConfigResolved,
    /// Every Deployment has the ready pods it asks for.
    WorkloadsReady,
    /// The gateway has accepted and programmed the route.
    RouterReady,
    /// The Redis the EPP is told to use answers. Serving does not depend on it.
    RedisReady,
}

impl ConditionType {
    /// The name in `status.conditions[].type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::BaseConfigResolved => "BaseConfigResolved",
            Self::WorkloadsReady => "WorkloadsReady",
            Self::RouterReady => "RouterReady",
            Self::RedisReady => "RedisReady",
        }
    }
}

/// What a condition says, before it has a time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// True, false or unknown.
    pub status: Option<bool>,
    /// One CamelCase word for programs.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
}

impl Verdict {
    /// A verdict that is true.
    pub fn yes(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: Some(true),
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// A verdict that is false.
    pub fn no(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: Some(false),
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// Nothing is known yet.
    pub fn unknown(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: None,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// `True`, `False` or `Unknown`.
    pub fn status_str(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// Puts a condition into the list. The transition time moves only when the status does,
/// as the Kubernetes API conventions ask.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    verdict: &Verdict,
    generation: Option<i64>,
    now: &Time,
) {
    let mut condition = Condition {
        type_: type_.to_owned(),
        status: verdict.status_str().to_owned(),
        reason: verdict.reason.clone(),
        message: verdict.message.clone(),
        observed_generation: generation,
        last_transition_time: now.clone(),
    };
    match conditions
        .iter_mut()
        .find(|existing| existing.type_ == type_)
    {
        Some(existing) => {
            if existing.status == condition.status {
                condition.last_transition_time = existing.last_transition_time.clone();
            }
            *existing = condition;
        }
        None => conditions.push(condition),
    }
}

/// The condition of that type, if the list has one.
pub fn find(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == type_.as_str())
}
