//! What Celestia carries: namespaces, blobs and their records.

mod blob;
mod joiner;
mod namespace;
mod scanner;

pub(crate) use blob::ENTRIES;
pub use blob::{BlobError, DROPPED_MAX, DecodedList, decode_metadata, decode_rollup_data, unpack};
pub(crate) use joiner::{Dropped, Evidence, Joiner, Lack};
pub use namespace::Namespace;
pub(crate) use scanner::Scanner;
