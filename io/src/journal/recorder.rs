//! Recording off the driver's path: a queue that is bounded in bytes, and a thread that empties it.

use std::{
    fmt, io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::warn;

use super::{Entry, Record, Writer};

/// Bytes of events that may wait for the disk. With more the recording ends.
const QUEUE_BYTES: usize = 64 << 20;

/// Events that may wait.
const QUEUE_EVENTS: usize = 1 << 16;

/// The thread is not woken for less, but waits for more: waking it costs the driver more than recording does.
const WAKE_BYTES: usize = 1 << 20;

/// It waits no longer than this, so that a killed process loses no more.
const LINGER: Duration = Duration::from_millis(100);

/// How long a driver that has ended waits for its last events to be written.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Where a recorder's thread writes to.
pub trait Destination {
    fn write(&mut self, entry: Entry) -> io::Result<()>;
    fn flush(&mut self) -> io::Result<()>;
    /// Nothing follows.
    fn end(&mut self, reason: &str) -> io::Result<()>;
}

impl<W: io::Write> Destination for Writer<W> {
    fn write(&mut self, entry: Entry) -> io::Result<()> {
        Writer::write(self, entry)
    }

    fn flush(&mut self) -> io::Result<()> {
        Writer::flush(self)
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
    entries: Vec<Entry>,
    bytes: usize,
    /// Why nothing more is taken.
    closed: Option<&'static str>,
    has_ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(destination: impl Destination + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name("journal".to_owned()).spawn(move || {
            if let Err(error) = write_all(&of_thread, destination) {
                warn!("the journal ends here, the node goes on: {error}");
            }
            let mut queue = of_thread.lock();
            queue.closed.get_or_insert("");
            (queue.entries, queue.has_ended) = (Vec::new(), true);
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
        let weight = entry.weight();
        let mut queue = self.shared.lock();
        if queue.closed.is_some() {
            return;
        }
        let (bytes, events) = (queue.bytes + weight, queue.entries.len() + 1);
        // One event of any size has room in an empty queue.
        if events > 1 && (bytes > QUEUE_BYTES || events > QUEUE_EVENTS) {
            queue.closed = Some("the disk was too slow");
            warn!("the journal ends here, the node goes on: the disk is too slow, {bytes} bytes wait for it");
            self.shared.changed.notify_all();
            return;
        }
        queue.entries.push(entry);
        let wakes = events == 1 || (queue.bytes < WAKE_BYTES && bytes >= WAKE_BYTES);
        queue.bytes = bytes;
        if wakes {
            self.shared.changed.notify_all();
        }
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
    let mut batch = Vec::new();
    loop {
        let is_idle = |queue: &mut Queue| queue.closed.is_none() && queue.entries.is_empty();
        let waits = |queue: &mut Queue| queue.closed.is_none() && queue.bytes < WAKE_BYTES;
        let queue = shared.changed.wait_while(shared.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
        let waited = shared.changed.wait_timeout_while(queue, LINGER, waits);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        std::mem::swap(&mut queue.entries, &mut batch);
        queue.bytes = 0;
        let closed = queue.closed;
        drop(queue);
        for entry in batch.drain(..) {
            destination.write(entry)?;
        }
        destination.flush()?;
        if let Some(reason) = closed {
            return destination.end(reason);
        }
    }
}
