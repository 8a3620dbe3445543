//! Go's map: several values may be the same one, and `set` changes it for all. PURE.
//!
//! No dict can be put into itself, so everything that walks values ends. A walk holds the
//! locks of the dicts on its way down, which are all different for that reason.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Value;

/// A map that its clones share.
#[derive(Clone, Debug, Default)]
pub struct Dict(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared(Mutex<BTreeMap<String, Value>>);

impl Dict {
    /// A new map.
    pub fn new(fields: BTreeMap<String, Value>) -> Self {
        Self(Arc::new(Shared(Mutex::new(fields))))
    }

    /// The entries, by name. Do not change a dict while they are held.
    pub(super) fn read(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries at this moment; dicts inside stay shared.
    pub(super) fn entries(&self) -> BTreeMap<String, Value> {
        self.read().clone()
    }

    /// Puts a value in, for everybody who has the dict.
    ///
    /// # Errors
    /// When the dict would be inside itself.
    pub(super) fn insert(&self, key: String, value: Value) -> Result<(), String> {
        if self.is_in(&value) {
            return Err("a dict cannot be put into itself".to_owned());
        }
        let before = self.read().insert(key, value);
        drop(before);
        Ok(())
    }

    /// Takes a value out, for everybody who has the dict.
    pub(super) fn remove(&self, key: &str) {
        let before = self.read().remove(key);
        drop(before);
    }

    fn is_in(&self, value: &Value) -> bool {
        match value {
            Value::Map(dict) => {
                Arc::ptr_eq(&self.0, &dict.0) || dict.read().values().any(|v| self.is_in(v))
            }
            Value::List(list) => list.items.iter().any(|item| self.is_in(item)),
            Value::Struct(fields) => fields.values().any(|v| self.is_in(v)),
            _ => false,
        }
    }
}

/// Dicts may lie deeper in each other than any value that was looked at: `set` on an inner
/// one is not seen by the outer one. So they are taken apart without recursion.
impl Drop for Shared {
    fn drop(&mut self) {
        let fields = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut work: Vec<Value> = std::mem::take(fields).into_values().collect();
        while let Some(value) = work.pop() {
            match value {
                Value::List(list) => work.extend(list.items),
                Value::Struct(fields) => work.extend(fields.into_values()),
                Value::Map(dict) => {
                    if let Some(mut shared) = Arc::into_inner(dict.0) {
                        let fields = shared.0.get_mut().unwrap_or_else(PoisonError::into_inner);
                        work.extend(std::mem::take(fields).into_values());
                    }
                }
                _ => {}
            }
        }
    }
}
