//! Bounds that a person may ask for.

/// A bound of this node among others, and what is used of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What is bounded.
    pub name: &'static str,
    /// How much of it there is now.
    pub used: u64,
    /// How much there can be.
    pub max: u64,
}

impl Limit {
    /// Returns a bound of things that are counted.
    pub(super) fn of(name: &'static str, used: usize, max: usize) -> Self {
        Self { name, used: used as u64, max: max as u64 }
    }
}
