//! Recording off the driver's path: a queue that is bounded in bytes, and a thread that empties it.
//!
//! Events are encoded by the driver and not by the thread: memory that one thread takes and another gives back costs
//! more than the encoding does.

use std::{
    fmt, io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::warn;

use super::{Entry, Record, Writer, file::Batch};

/// Bytes of events that may wait for the disk. With more the recording ends.
const QUEUE_BYTES: usize = 64 << 20;

/// The thread is not woken for less, but waits for more: waking it costs the driver more than recording does.
const WAKE_BYTES: usize = 1 << 20;

/// Empty buffers that are kept to be filled again.
const SPARE_MAX: usize = 8;

/// It waits no longer than this, so that a killed process loses no more.
const LINGER: Duration = Duration::from_millis(100);

/// How long a driver that has ended waits for its last events to be written.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Where a recorder's thread writes to.
pub(super) trait Destination {
    /// Writes a chunk of events.
    fn write(&mut self, batch: &Batch) -> io::Result<()>;
    /// Nothing follows.
    fn end(&mut self, reason: &str) -> io::Result<()>;
}

impl<W: io::Write> Destination for Writer<W> {
    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        self.write_batch(batch)
    }

    fn end(&mut self, reason: &str) -> io::Result<()> {
        Writer::end(self, reason)
    }
}

/// Hands events to a thread that writes them. Dropping it writes what is left and waits for that for a while.
pub struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or the thread has ended.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Full ones, oldest first, and the one that is being filled.
    batches: Vec<Batch>,
    /// Empty ones, to be filled again.
    spare: Vec<Batch>,
    /// In `batches`.
    bytes: usize,
    /// Why nothing more is taken.
    closed: Option<&'static str>,
    /// The last event was one to wake the thread for.
    wakes: bool,
    has_ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder {
    /// Starts a thread that writes to `writer`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new<W: io::Write + Send + 'static>(writer: Writer<W>) -> io::Result<Self> {
        Self::start(writer)
    }

    pub(super) fn start(destination: impl Destination + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name("journal".to_owned()).spawn(move || {
            if let Err(error) = write_all(&of_thread, destination) {
                warn!("the journal ends here, the node goes on: {error}");
            }
            let mut queue = of_thread.lock();
            queue.closed.get_or_insert("");
            (queue.batches, queue.spare, queue.has_ended) = (Vec::new(), Vec::new(), true);
            of_thread.changed.notify_all();
        })?;
        Ok(Self { shared })
    }

    /// Whether events are still taken.
    pub fn is_recording(&self) -> bool {
        self.shared.lock().closed.is_none()
    }
}

impl Record for Recorder {
    fn record(&mut self, entry: Entry) {
        let mut queue = self.shared.lock();
        if queue.closed.is_some() {
            return;
        }
        if let Err((reason, error)) = queue.push(entry) {
            queue.closed = Some(reason);
            drop(queue);
            self.shared.changed.notify_all();
            warn!("the journal ends here, the node goes on: {error}");
        } else if std::mem::take(&mut queue.wakes) {
            drop(queue);
            self.shared.changed.notify_all();
        }
    }
}

impl Queue {
    /// Adds an event, or says why nothing more is taken.
    fn push(&mut self, entry: Entry) -> Result<(), (&'static str, String)> {
        if self.batches.last().is_none_or(Batch::is_full) {
            let batch = self.spare.pop().unwrap_or_default();
            self.batches.push(batch);
        }
        let was = self.bytes;
        let Some(batch) = self.batches.last_mut() else { return Ok(()) };
        let before = batch.bytes();
        batch.push(entry).map_err(|error| ("an event was too large", error.to_string()))?;
        self.bytes = was.saturating_add(batch.bytes() - before);
        self.wakes = was == 0 || (was < WAKE_BYTES && self.bytes >= WAKE_BYTES);
        // An event of any size has room in an empty queue.
        if was > 0 && self.bytes > QUEUE_BYTES {
            return Err(("the disk was too slow", format!("the disk is too slow, {} bytes wait for it", self.bytes)));
        }
        Ok(())
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("is_recording", &self.is_recording()).finish()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed.get_or_insert(if thread::panicking() { "the driver panicked" } else { "the driver ended" });
        self.shared.changed.notify_all();
        let waited = self.shared.changed.wait_timeout_while(queue, END_PATIENCE, |queue| !queue.has_ended);
        if waited.is_ok_and(|(queue, _)| !queue.has_ended) {
            warn!("the journal's last events are not written: the disk does not answer");
        }
    }
}

/// Writes until the queue is closed and empty.
fn write_all(shared: &Shared, mut destination: impl Destination) -> io::Result<()> {
    let mut batches: Vec<Batch> = Vec::new();
    loop {
        let is_idle = |queue: &mut Queue| queue.closed.is_none() && queue.bytes == 0;
        let waits = |queue: &mut Queue| queue.closed.is_none() && queue.bytes < WAKE_BYTES;
        let queue = shared.changed.wait_while(shared.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
        let waited = shared.changed.wait_timeout_while(queue, LINGER, waits);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        std::mem::swap(&mut queue.batches, &mut batches);
        queue.bytes = 0;
        let closed = queue.closed;
        drop(queue);
        for batch in &mut batches {
            destination.write(batch)?;
            batch.clear();
        }
        if let Some(reason) = closed {
            return destination.end(reason);
        }
        let mut queue = shared.lock();
        let room = SPARE_MAX.saturating_sub(queue.spare.len());
        queue.spare.extend(batches.drain(..).take(room));
    }
}
