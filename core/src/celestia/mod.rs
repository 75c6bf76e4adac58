//! What Celestia carries: namespaces, blobs and their records.

mod namespace;

pub use namespace::Namespace;
