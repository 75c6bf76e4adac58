//! Panics inside simulated hosts. Without `--cfg tokio_unstable` the runtime swallows those of spawned tasks, so they are
//! taken down where they happen.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    /// Panics of this thread, while somebody watches.
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Runs `part` and returns what panicked on this thread meanwhile, in its own right or inside of tasks that it polled.
/// `None` if `part` itself ended by a panic.
pub(super) fn watch<R>(part: impl FnOnce() -> R) -> (Option<R>, Vec<String>) {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let is_watched =
                SEEN.with_borrow_mut(|seen| seen.as_mut().map(|seen| seen.push(panic.to_string())).is_some());
            if !is_watched {
                before(panic);
            }
        }));
    });
    SEEN.set(Some(Vec::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(part)).ok();
    (result, SEEN.take().unwrap_or_default())
}

/// Whether anything panicked since [`watch`] began.
pub(super) fn any() -> bool {
    SEEN.with_borrow(|seen| seen.as_ref().is_some_and(|seen| !seen.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_that_the_runtime_swallows_is_seen() {
        let (result, panics) = watch(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let task = tokio::spawn(async { panic!("nobody joins me") });
                while !task.is_finished() {
                    tokio::task::yield_now().await;
                }
            });
            any()
        });
        assert_eq!(result, Some(true));
        assert!(panics[0].contains("nobody joins me") && panics[0].contains("panics.rs"), "{panics:?}");
        assert!(!any());
    }

    #[test]
    fn a_panic_of_the_part_itself_is_seen() {
        let (result, panics) = watch(|| panic!("at once"));
        assert_eq!((result, panics.len()), (None::<()>, 1));
    }
}
