//! The page.

use super::Timeline;

/// One page with everything in it.
pub fn html(timeline: &Timeline) -> String {
    let _ = timeline;
    String::new()
}
