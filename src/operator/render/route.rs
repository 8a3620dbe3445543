//! Facts -> the HTTPRoute. PURE.
#![deny(clippy::disallowed_methods)]

use crate::api::foreign::{HTTPRoute, HTTPRouteSpec};
use crate::operator::children::Object;
use crate::operator::facts::Facts;
use crate::operator::names;

/// The route: the base's, with the parents and rules that were decided.
pub(super) fn route(facts: &Facts) -> Option<Object> {
    let decided = facts.routing.route.as_ref()?;
    let base = facts.base.route.clone();
    let mut route = base.unwrap_or_else(|| HTTPRoute::new("", HTTPRouteSpec::default()));
    route.metadata.name = Some(names::http_route(&facts.identity.name));
    route
        .metadata
        .namespace
        .clone_from(&facts.identity.namespace);
    route.spec.parent_refs.clone_from(&decided.parents);
    route.spec.rules.clone_from(&decided.rules);
    Some(Object::HttpRoute(Box::new(route)))
}
