//! (live object, wanted object) -> does the live one already say everything we want?
//! PURE. Decides whether an apply can be left out, so that a steady state writes nothing.
#![deny(clippy::disallowed_methods)]

use serde_json::Value;

/// Fields that identify an item of a list, in the order in which Kubernetes' own list
/// types use them. Items without any are compared by position.
const LIST_KEYS: &[&str] = &[
    "uid",
    "name",
    "containerPort",
    "port",
    "mountPath",
    "type",
    "key",
];

/// True when `live` contains everything in `wanted`, whatever else it has: defaults of
/// the API server, fields and list items of other writers.
///
/// Quantities are compared as written (`1000m` differs from `1`); the cost of such a
/// difference is one apply that changes nothing.
pub fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (_, Value::Null) => true,
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| match live.get(key) {
                Some(live) => covers(live, wanted),
                None => is_blank(wanted),
            })
        }
        (Value::Array(live), Value::Array(wanted)) => covers_list(live, wanted),
        (live, wanted) => live == wanted,
    }
}

/// What the API server may leave out when it stores an object.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_blank),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn covers_list(live: &[Value], wanted: &[Value]) -> bool {
    let Some(key) = list_key(wanted) else {
        return live.len() == wanted.len()
            && live
                .iter()
                .zip(wanted)
                .all(|(live, wanted)| covers(live, wanted));
    };
    wanted.iter().all(|wanted| {
        live.iter()
            .filter(|live| live.get(key) == wanted.get(key))
            .any(|live| covers(live, wanted))
    })
}

/// The first key that every item has.
fn list_key(items: &[Value]) -> Option<&'static str> {
    if items.is_empty() {
        return None;
    }
    LIST_KEYS.iter().copied().find(|key| {
        items
            .iter()
            .all(|item| item.get(key).is_some_and(|value| !value.is_null()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_injected_containers_are_no_difference() {
        let wanted = json!({"spec": {"containers": [{"name": "vllm", "args": ["--port", "1"]}]}});
        let live = json!({"spec": {"dnsPolicy": "ClusterFirst", "containers": [
            {"name": "injected"},
            {"name": "vllm", "args": ["--port", "1"], "imagePullPolicy": "Always"}]}});
        assert!(covers(&live, &wanted));
    }

    #[test]
    fn a_changed_a_missing_and_a_surplus_argument_are_differences() {
        let wanted = json!({"args": ["a", "b"], "replicas": 0});
        assert!(covers(&json!({"args": ["a", "b"], "replicas": 0}), &wanted));
        assert!(!covers(
            &json!({"args": ["a", "c"], "replicas": 0}),
            &wanted
        ));
        assert!(!covers(&json!({"args": ["a"], "replicas": 0}), &wanted));
        assert!(!covers(
            &json!({"args": ["a", "b", "c"], "replicas": 0}),
            &wanted
        ));
        assert!(!covers(&json!({"args": ["a", "b"]}), &wanted));
        assert!(!covers(
            &json!({"args": ["a", "b"], "replicas": 1}),
            &wanted
        ));
    }

    #[test]
    fn what_the_server_drops_when_empty_is_no_difference() {
        assert!(covers(
            &json!({}),
            &json!({"labels": {}, "args": [], "affinity": {"a": {}}})
        ));
        assert!(!covers(&json!({}), &json!({"hostNetwork": false})));
    }
}
