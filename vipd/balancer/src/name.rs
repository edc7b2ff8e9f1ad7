//! Names that a reload may change.

use arc_swap::ArcSwap;
use std::sync::Arc;

/// The name of what keeps its sessions and numbers when it gets another one.
#[derive(Debug)]
pub(crate) struct Name(ArcSwap<String>);

impl Name {
    pub(crate) fn new(name: &str) -> Self {
        Self(ArcSwap::from_pointee(name.to_owned()))
    }

    pub(crate) fn get(&self) -> Arc<String> {
        self.0.load_full()
    }

    pub(crate) fn set(&self, name: &str) {
        if **self.0.load() != name {
            self.0.store(Arc::new(name.to_owned()));
        }
    }
}
