//! The loop over what waits for one destination: a server, an application service, a push gateway.
//!
//! A [`Queue`] says what is to be sent next, sends it, and notes that it arrived. [`Sender::drain`] does that over and
//! over until nothing waits; [`Sender::follow`] goes on for as long as it is let. Between the two lies what must be the
//! same for all:
//!
//! - **Order.** One batch of a destination is under way at a time, and the next is read only when it arrived.
//! - **Durability.** What was read is on the disk before it is sent.
//! - **Patience.** After a failure the loop waits ([`Pace`]), longer each time, then reads again what waits: by then
//!   several things may have become one. [`Sender::retry`] ends the wait. A panic counts as a failure, so that what cannot
//!   be made or read waits like what cannot be sent.
//! - **Fairness.** A [`Gate`] bounds how many batches of how many destinations are in memory. Destinations that failed
//!   last time, or are still to be found, pass it by another door, and whoever takes long gives its place to the next,
//!   so the dead do not hold up the living.
//!
//! To stop a loop, drop its future: nothing is half done then, since only the sending awaits. The place up to which a
//! destination has everything is the queue's to keep, in the database; a loop that starts again goes on from there, and
//! may send once more what arrived but was not noted. Receivers know such repetitions by their IDs.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::Notify,
    time::{sleep, sleep_until},
};

use crate::{
    clock,
    error::{Error, Result},
    store::Store,
};
pub use crate::{outgoing::Gate, store::records::Failures};

/// What waits for one destination. The methods but for `send` are called by one loop, one after another.
pub trait Queue: Sync {
    /// What is sent at once.
    type Batch: Send + Sync;

    /// What is to be sent next; none when nothing waits. Bounded in size and in the rows it reads.
    ///
    /// # Errors
    /// When the database fails or a row is damaged. The loop treats that as a failure to send.
    fn next(&self) -> Result<Option<Self::Batch>>;

    /// Whether it may take long to reach the destination, though it did not fail last time.
    fn is_doubtful(&self) -> bool {
        false
    }

    /// Sends it; returns when the destination has it, or when it is to be sent again later. What the destination will
    /// never take counts as arrived. Ends within a time of its own.
    fn send(&self, batch: &Self::Batch) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Notes that the batch arrived: the next one begins after it.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    fn sent(&self, batch: Self::Batch) -> Result<()>;

    /// Notes that the destination failed, for queues that remember that beyond a restart.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    fn failed(&self, failures: &Failures, why: &str) -> Result<()>;
}

/// Why a batch did not arrive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// In words, for administrators.
    pub why: String,
    /// How long the destination asks to be left alone (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal for this reason, to be tried again whenever.
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), retry_after: None }
    }
}

/// How long to wait after failures: first so long, then twice as long each time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// The longest wait once a destination has failed for a week.
    pub longest_later: Duration,
}

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Pace {
    /// The wait after the last of `failures`, made at `now` (milliseconds since the Unix epoch).
    pub fn wait(&self, failures: &Failures, now: u64) -> Duration {
        let failing_for = Duration::from_millis(now.saturating_sub(failures.since));
        let longest = if failing_for < WEEK { self.longest } else { self.longest_later };
        let doublings = failures.count.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(longest)
    }

    /// How long it still is until the destination is tried again.
    pub fn rest(&self, failures: &Failures) -> Duration {
        clock::time_until(failures.retry_at, self.longest.max(self.longest_later))
    }

    /// The failures with one more, which happened now.
    fn failed(&self, earlier: Option<Failures>, refusal: &Refusal) -> Failures {
        let now = clock::now_ms();
        let (since, count) = earlier.map_or((now, 0), |failures| (failures.since, failures.count));
        let mut failures = Failures { since, count: count.saturating_add(1), retry_at: now };
        let wait = self.wait(&failures, now);
        // A little less for each, so that destinations which failed together are not asked together.
        let less = wait / 1024 * clock::random_bytes::<1>().map_or(0, |[byte]| u32::from(byte));
        let asked_for = refusal.retry_after.unwrap_or_default().min(self.longest);
        failures.retry_at = now + millis(wait.saturating_sub(less).max(asked_for));
        failures
    }
}

/// So long in milliseconds.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a loop needs besides its queue. Cheap to make.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    /// The database that the queue reads.
    pub store: &'a Store,
    /// How long to wait after failures.
    pub pace: Pace,
    /// What bounds this and other loops together.
    pub gate: &'a Gate,
    /// Ends a wait after failures, and forgets them: the destination showed that it lives.
    pub retry: &'a Notify,
}

impl Sender<'_> {
    /// Sends what waits until nothing does. `failures` is how the destination failed before, if the queue remembers it.
    pub async fn drain(&self, queue: &impl Queue, mut failures: Option<Failures>) {
        loop {
            if let Some(before) = failures.take() {
                failures = self.wait(before).await;
            }
            let sending = AssertUnwindSafe(self.send_next(queue, failures.is_some()));
            match sending.catch_unwind().await.unwrap_or_else(|_| Err(panicked())) {
                Ok(true) => failures = None,
                Ok(false) => return,
                Err(refusal) => {
                    let now = self.pace.failed(failures, &refusal);
                    let noted = catch_unwind(AssertUnwindSafe(|| queue.failed(&now, &refusal.why)));
                    if let Err(error) = noted.unwrap_or_else(|_| Err(Error::internal("it panicked"))) {
                        tracing::error!("that a destination failed could not be noted: {error}");
                    }
                    failures = Some(now);
                }
            }
        }
    }

    /// Sends what waits, and whatever comes to wait later. Does not return.
    pub async fn follow(&self, queue: &impl Queue) {
        loop {
            let more = self.store.hub().delivery();
            self.drain(queue, None).await;
            more.await;
        }
    }

    /// Waits until it is time to try again; gives the failures, or none if they are forgotten. A destination that is
    /// heard of again and again, and yet takes nothing, is tried no more often than after a first failure.
    async fn wait(&self, failures: Failures) -> Option<Failures> {
        let least = clock::instant() + self.pace.first;
        let rest = self.pace.rest(&failures);
        tokio::select! {
            () = sleep(rest) => Some(failures),
            () = self.retry.notified() => {
                sleep_until(least.into()).await;
                None
            }
        }
    }

    /// Sends the next batch, if something waits: tells whether it did.
    async fn send_next(&self, queue: &impl Queue, is_failing: bool) -> Result<bool, Refusal> {
        let place = self.gate.enter(is_failing || queue.is_doubtful()).await;
        let Some(batch) = queue.next().map_err(|error| fault(&error))? else { return Ok(false) };
        self.store.durable().await.map_err(|error| fault(&error))?;
        // On the heap while it lasts: a destination that waits is to take little memory.
        place.pass(Box::pin(queue.send(&batch))).await.0?;
        queue.sent(batch).map_err(|error| fault(&error))?;
        Ok(true)
    }
}

/// A fault of our own, which waiting may or may not heal.
fn fault(error: &Error) -> Refusal {
    tracing::error!("what waits to be sent could not be read or noted: {error}");
    Refusal::new("a fault of this server")
}

/// A fault of our own of another kind; the log has its words already.
fn panicked() -> Refusal {
    Refusal::new("a fault of this server")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    const PACE: Pace = Pace {
        first: Duration::from_secs(10),
        longest: Duration::from_secs(3600),
        longest_later: Duration::from_secs(24 * 3600),
    };

    #[test]
    fn waits_double_up_to_an_hour_and_after_a_week_to_a_day() {
        let wait = |count, days: u64| {
            let failures = Failures { since: 0, count, retry_at: 0 };
            PACE.wait(&failures, days * 24 * 3_600_000).as_secs()
        };
        assert_eq!([1, 2, 3, 4, 9, 10, 1000].map(|count| wait(count, 0)), [10, 20, 40, 80, 2560, 3600, 3600]);
        assert_eq!(wait(1000, 6), 3600);
        assert_eq!(wait(1000, 7), 24 * 3600);
        assert_eq!(wait(3, 7), 40);
    }

    #[test]
    fn a_failure_counts_on_from_the_earlier_ones() {
        let earlier = Failures { since: 5, count: 2, retry_at: 7 };
        let now = clock::now_ms();
        let failures = PACE.failed(Some(earlier), &Refusal::new(""));
        assert_eq!((failures.since, failures.count), (5, 3));
        assert!(failures.retry_at >= now + 30_000, "at most a quarter less than 40 s");
        let refusal = Refusal { retry_after: Some(Duration::from_secs(100)), ..Refusal::new("") };
        assert!(PACE.failed(None, &refusal).retry_at >= now + 100_000, "the destination's own wish is met");
    }

    #[test]
    fn a_time_that_no_pause_reaches_was_noted_by_a_wrong_clock() {
        let rest = |ahead: u64| {
            PACE.rest(&Failures { since: 0, count: 1, retry_at: clock::now_ms() + ahead * 3_600_000 }).as_secs()
        };
        assert!((3_500..=3_600).contains(&rest(1)));
        assert_eq!(rest(30 * 24), 0);
    }

    /// Two batches; the first try to send each panics.
    #[derive(Default)]
    struct Frail {
        tries: AtomicUsize,
        sent: AtomicUsize,
        failed: AtomicUsize,
    }

    impl Queue for Frail {
        type Batch = ();

        fn next(&self) -> Result<Option<()>> {
            Ok((self.sent.load(SeqCst) < 2).then_some(()))
        }

        async fn send(&self, (): &()) -> Result<(), Refusal> {
            assert!(self.tries.fetch_add(1, SeqCst) % 2 == 1, "it panics");
            Ok(())
        }

        fn sent(&self, (): ()) -> Result<()> {
            self.sent.fetch_add(1, SeqCst);
            Ok(())
        }

        fn failed(&self, _: &Failures, _: &str) -> Result<()> {
            assert_eq!(self.failed.fetch_add(1, SeqCst), 1, "it panics");
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let name = ruma::ServerName::parse("a.test").unwrap();
        let store = Store::open(directory.path(), &name, 1 << 20).unwrap();
        let (gate, retry, frail) = (Gate::new(1, 1, 1), Notify::new(), Frail::default());
        let pace = Pace { first: Duration::from_millis(1), ..PACE };
        Sender { store: &store, pace, gate: &gate, retry: &retry }.drain(&frail, None).await;
        assert_eq!((frail.sent.into_inner(), frail.failed.into_inner()), (2, 2));
    }
}
