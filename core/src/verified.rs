//! The mark of what has been proven.

use std::ops::Deref;

/// A value that passed verification. Only the verifying functions of this crate can make one, and the cell executes
/// nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// To be called by a verifying function, after the last check.
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }

    /// Gives up the mark.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
