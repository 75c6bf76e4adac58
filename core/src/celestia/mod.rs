//! What Celestia carries: namespaces, blobs and their records.

mod blob;
mod namespace;

pub use blob::{BlobError, DROPPED_MAX, DecodedList, decode_metadata, decode_rollup_data, unpack};
pub use namespace::Namespace;
