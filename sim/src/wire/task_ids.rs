//! The one thing in a process that outlives a run and shapes the next: tokio counts its tasks for the whole process, and
//! a runtime that ends drops what is left in an order that depends on the ids. Where a host crashes, that is the order in
//! which its connections break.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::Builder;

/// A multiple of the number of lists that a runtime of one thread keeps its tasks in, by their id (4 in tokio 1.4x).
const LISTS: u64 = 64;

/// Performs `part`, alone in this process, where the ids of its tasks begin at a multiple of [`LISTS`].
pub(super) fn aligned<R>(part: impl FnOnce() -> R) -> R {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Ok(runtime) = Builder::new_current_thread().build() {
        // A task of another runtime in this process may take ids meanwhile, but not for ever.
        for _ in 0..100 * LISTS {
            let id = runtime.spawn(async {}).id().to_string();
            // The next one is a multiple.
            if id.parse().is_ok_and(|id: u64| id.wrapping_add(1).is_multiple_of(LISTS)) {
                break;
            }
        }
    }
    part()
}
