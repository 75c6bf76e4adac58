//! Back-off between tries.
