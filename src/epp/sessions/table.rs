//! Sessions -> the endpoints they are bound to. PURE data structure: `now` is an argument.
//!
//! Readers never block. Writers do not either, but for the one that makes room when sweeps did
//! not make it in time. Per endpoint the number of bindings is kept exactly, so that a decision can weigh
//! it.
//!
//! Replicas of the EPP exchange bindings. Of two that differ the one with the newer time wins,
//! of equals the one whose endpoint is smaller as text, so all replicas end with the same one
//! in whatever order they hear of them. A binding's time is that of its last *exchanged*
//! change: uses that nobody was told about prolong it here but do not make it win.

#![deny(clippy::disallowed_methods)]

mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use papaya::{Compute, HashMap, Operation};

use self::tally::Tally;
use super::binding::{
    Bind, Bound, Change, Limits, MAX_AHEAD, Merge, SessionHash, Swept, UnixMillis,
};
use crate::scheduling::endpoint::EndpointId;

/// Of a crowded table one part in this many is evicted at once: looking for the bindings used
/// longest ago costs the same for one as for all. Crowded is a table with this part left.
const EVICTED_PART: usize = 16;

/// Room is set aside for this many bindings at most, at some 20 bytes each.
const MAX_CAPACITY: usize = 1 << 20;

#[derive(Debug)]
struct Binding {
    bound: Bound,
    /// Milliseconds of the last use here.
    used: AtomicU64,
    /// Milliseconds of the last exchanged change.
    told: AtomicU64,
    tally: Arc<Tally>,
}

impl Binding {
    fn new(bound: Bound, at: UnixMillis, tally: Arc<Tally>) -> Self {
        Self {
            bound,
            used: AtomicU64::new(at.0),
            told: AtomicU64::new(at.0),
            tally,
        }
    }

    fn used(&self) -> UnixMillis {
        UnixMillis(self.used.load(Ordering::Acquire))
    }

    fn told(&self, session: SessionHash) -> Change {
        Change {
            session,
            bound: self.bound,
            at: UnixMillis(self.told.load(Ordering::Acquire)),
        }
    }

    fn use_at(&self, at: UnixMillis) {
        self.used.fetch_max(at.0, Ordering::AcqRel);
    }
}

/// The bindings of one EPP.
#[derive(Debug)]
pub struct Table {
    bindings: HashMap<SessionHash, Binding>,
    tallies: HashMap<EndpointId, Arc<Tally>>,
    evicting: AtomicBool,
    limits: Limits,
}

/// What happened in the closure of a change; the map tells the rest.
enum Stay {
    Kept,
    Older,
}

impl Table {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self {
            // While the map grows, lookups take twenty times as long: let it have its size at
            // once.
            bindings: HashMap::with_capacity(limits.max_bindings.min(MAX_CAPACITY)),
            tallies: HashMap::new(),
            evicting: AtomicBool::new(false),
            limits,
        }
    }

    /// The bounds it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where the session is bound, if it is and the binding has not expired. No use.
    pub fn get(&self, session: SessionHash, now: UnixMillis) -> Option<Bound> {
        let bindings = self.bindings.pin();
        let binding = bindings.get(&session)?;
        (!self.expired(binding.used(), now)).then_some(binding.bound)
    }

    /// Prolongs the session's binding. Gives what is to be told to other replicas when they
    /// have not heard of it for [`Limits::refresh`].
    pub fn touch(&self, session: SessionHash, now: UnixMillis) -> Option<Change> {
        let bindings = self.bindings.pin();
        let binding = bindings.get(&session)?;
        if self.expired(binding.used(), now) {
            return None;
        }
        binding.use_at(now);
        let told = binding.told(session);
        if now < told.at.plus(self.limits.refresh()) {
            return None;
        }
        // One of several concurrent uses tells.
        binding
            .told
            .compare_exchange(told.at.0, now.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
            .then_some(Change { at: now, ..told })
    }

    /// Binds the session, or uses its binding when it is bound there already. Gives what is
    /// to be told to other replicas, and how many bindings made room.
    ///
    /// A local decision always wins over what is known here: its time is the next millisecond
    /// at least.
    pub fn bind(
        &self,
        session: SessionHash,
        bound: Bound,
        now: UnixMillis,
    ) -> (Bind, Option<Change>, usize) {
        let Ok(evicted) = self.make_room(session) else {
            return (Bind::Refused, None, 0);
        };
        let tally = self.tally(bound.endpoint);
        let bindings = self.bindings.pin();
        let result = bindings.compute(session, |existing| match existing {
            Some((_, binding)) if self.expired(binding.used(), now) => {
                Operation::Insert(Binding::new(bound, now, Arc::clone(&tally)))
            }
            Some((_, binding)) if binding.bound == bound => Operation::Abort(Stay::Kept),
            Some((_, binding)) => {
                let at = now.max(UnixMillis(binding.told(session).at.0.saturating_add(1)));
                Operation::Insert(Binding::new(bound, at, Arc::clone(&tally)))
            }
            None => Operation::Insert(Binding::new(bound, now, Arc::clone(&tally))),
        });
        let (outcome, change) = match result {
            Compute::Inserted(_, new) => (Bind::New, Some(new.told(session))),
            Compute::Updated {
                old: (_, old),
                new: (_, new),
            } => {
                old.tally.subtract();
                let outcome = if self.expired(old.used(), now) {
                    Bind::New
                } else {
                    Bind::Moved
                };
                (outcome, Some(new.told(session)))
            }
            Compute::Removed(..) | Compute::Aborted(_) => {
                tally.subtract();
                (Bind::Kept, self.touch(session, now))
            }
        };
        (outcome, change, evicted)
    }

    /// Takes a binding that another replica made. Gives how many bindings made room, too.
    pub fn merge(&self, change: &Change, now: UnixMillis) -> (Merge, usize) {
        if self.expired(change.at, now) {
            return (Merge::Expired, 0);
        }
        if change.at > now.plus(MAX_AHEAD) {
            return (Merge::Ahead, 0);
        }
        let Ok(evicted) = self.make_room(change.session) else {
            return (Merge::Refused, 0);
        };
        let tally = self.tally(change.bound.endpoint);
        let bindings = self.bindings.pin();
        let new = || Binding::new(change.bound, change.at, Arc::clone(&tally));
        let result = bindings.compute(change.session, |existing| match existing {
            Some((_, binding)) if binding.bound == change.bound => {
                if change.at.0 <= binding.told.fetch_max(change.at.0, Ordering::AcqRel) {
                    return Operation::Abort(Stay::Older);
                }
                binding.use_at(change.at);
                Operation::Abort(Stay::Kept)
            }
            Some((_, binding)) if !change.beats(&binding.told(change.session)) => {
                Operation::Abort(Stay::Older)
            }
            _ => Operation::Insert(new()),
        });
        let outcome = match result {
            Compute::Inserted(..) => Merge::New,
            Compute::Updated { old: (_, old), .. } => {
                old.tally.subtract();
                Merge::Moved
            }
            Compute::Aborted(Stay::Kept) => {
                tally.subtract();
                Merge::Refreshed
            }
            Compute::Aborted(Stay::Older) | Compute::Removed(..) => {
                tally.subtract();
                Merge::Older
            }
        };
        (outcome, evicted)
    }

    /// Forgets every binding to an endpoint whose pod is gone. Gives how many there were.
    pub fn forget_endpoint(&self, endpoint: EndpointId) -> usize {
        let gone = self.remove_where(usize::MAX, |binding| binding.bound.endpoint == endpoint);
        self.close_tallies();
        gone
    }

    /// Forgets bindings to other pods that had this endpoint's address before. Gives how
    /// many there were.
    pub fn forget_predecessors(&self, now_there: Bound) -> usize {
        self.remove_where(usize::MAX, |binding| {
            binding.bound.endpoint == now_there.endpoint
                && binding.bound.pod_uid != now_there.pod_uid
        })
    }

    /// Removes what has expired and makes room in a crowded table. Takes milliseconds: not for
    /// a request's way.
    pub fn sweep(&self, now: UnixMillis) -> Swept {
        let expired = self.remove_where(usize::MAX, |binding| self.expired(binding.used(), now));
        let evicted = if self.is_crowded() {
            self.evict().unwrap_or(0)
        } else {
            0
        };
        self.close_tallies();
        Swept { expired, evicted }
    }

    /// True when a sweep is due: soon there is no more room.
    pub fn is_crowded(&self) -> bool {
        let most = self.limits.max_bindings;
        self.bindings.len() >= most - most / EVICTED_PART
    }

    /// Bindings of one endpoint, those included that expired since the last sweep.
    pub fn count(&self, endpoint: EndpointId) -> u64 {
        self.tallies
            .pin()
            .get(&endpoint)
            .map_or(0, |tally| tally.get())
    }

    /// Bindings of all endpoints.
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// True when nothing is bound.
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    fn expired(&self, used: UnixMillis, now: UnixMillis) -> bool {
        used.plus(self.limits.sticky) <= now
    }

    /// The endpoint's tally with one added.
    fn tally(&self, endpoint: EndpointId) -> Arc<Tally> {
        let tallies = self.tallies.pin();
        loop {
            let tally = tallies.get_or_insert_with(endpoint, Arc::default);
            if tally.try_add() {
                return Arc::clone(tally);
            }
            // Closed: whoever closed it has not taken it out yet.
            let _ = tallies.remove_if(&endpoint, |_, there| Arc::ptr_eq(there, tally));
        }
    }

    /// Takes out the tallies of endpoints without bindings: endpoints come and go for ever.
    fn close_tallies(&self) {
        let tallies = self.tallies.pin();
        for (endpoint, tally) in &tallies {
            if tally.close_if_zero() {
                let _ = tallies.remove_if(endpoint, |_, there| Arc::ptr_eq(there, tally));
            }
        }
    }

    /// Removes up to `most` bindings of this kind.
    fn remove_where(&self, most: usize, gone: impl Fn(&Binding) -> bool) -> usize {
        let bindings = self.bindings.pin();
        let mut removed = 0;
        for (session, _) in bindings.iter().filter(|(_, binding)| gone(binding)) {
            if removed == most {
                break;
            }
            if let Ok(Some((_, binding))) = bindings.remove_if(session, |_, binding| gone(binding))
            {
                binding.tally.subtract();
                removed += 1;
            }
        }
        removed
    }

    /// Makes room for one more session when the table is full. Gives how many were evicted;
    /// an error when somebody else is at it.
    fn make_room(&self, session: SessionHash) -> Result<usize, ()> {
        let bindings = self.bindings.pin();
        if bindings.len() < self.limits.max_bindings || bindings.contains_key(&session) {
            return Ok(0);
        }
        self.evict().ok_or(())
    }

    /// Evicts what was used longest ago. `None` when somebody else is at it.
    fn evict(&self) -> Option<usize> {
        if self.evicting.swap(true, Ordering::AcqRel) {
            return None;
        }
        let bindings = self.bindings.pin();
        let mut uses: Vec<u64> = bindings.values().map(|binding| binding.used().0).collect();
        let most = self.limits.max_bindings.max(1);
        let excess = (uses.len() + 1).saturating_sub(most);
        let goal = excess.max(most / EVICTED_PART).min(uses.len());
        let mut evicted = 0;
        if goal > 0 {
            let (_, cutoff, _) = uses.select_nth_unstable(goal - 1);
            let cutoff = *cutoff;
            evicted = self.remove_where(goal, |binding| binding.used().0 <= cutoff);
        }
        self.evicting.store(false, Ordering::Release);
        Some(evicted)
    }
}

#[cfg(test)]
mod tests;
