//! The life of a request that has to wait: deadline, signals, and a bound on how many there are.
//!
//! A request is polled once on the session thread; when all it needs is here it is answered there
//! and then, at no further cost. Otherwise it becomes a task, so that no session thread ever
//! waits. One timer looks after all waiting callers: the FUSE library does not pass interrupts
//! on, so it asks the kernel whether a signal is pending for them.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::sys::thread::is_interrupted;
use crate::vfs::Error;

/// Requests that may wait at one time; each holds some KiB. Beyond it the answer is EAGAIN, since
/// the alternative is to block what does not have to wait.
const WAITING_MAX: usize = 4096;

/// How often the signals of waiting callers are looked at: an interrupted call returns in a moment,
/// and a thousand callers cost a few per cent of a core.
const SIGNAL_TICK: Duration = Duration::from_millis(100);

/// How long a read of several pages waits for all of them. The kernel then asks again for the one
/// page that its caller needs, which may be here. The blocks go on coming all the while.
const RANGE_GRACE: Duration = Duration::from_secs(1);

/// How long blocks that such a read asked for go on coming at most, also without a deadline: as
/// long as a caller waits by default. Nobody may ask again, and each holds a place among
/// [`WAITING_MAX`].
const RANGE_AFTER: Duration = Duration::from_mins(1);

/// How long a request is willing to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Until the deadline.
    Deadline,
    /// For [`RANGE_GRACE`]; the kernel asks again for less.
    Range,
    /// Until a signal comes: the work bounds itself.
    Signal,
}

/// All requests of one mount that wait.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    runtime: Handle,
    deadline: Option<Duration>,
    turns: Arc<Semaphore>,
    /// Callers by the number of their request.
    callers: Mutex<Callers>,
    came: Notify,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Callers {
    by_number: HashMap<u64, Caller>,
    next: u64,
}

#[derive(Debug)]
struct Caller {
    tid: u32,
    interrupt: oneshot::Sender<()>,
}

type Work<T> = BoxFuture<'static, Result<T, Error>>;

impl Requests {
    /// Returns an empty table whose timer runs on `runtime` until [`Requests::close`].
    pub(super) fn new(runtime: Handle, deadline: Option<Duration>) -> Self {
        let inner = Arc::new(Inner {
            runtime,
            deadline,
            turns: Arc::new(Semaphore::new(WAITING_MAX)),
            callers: Mutex::default(),
            came: Notify::new(),
            closed: CancellationToken::new(),
        });
        let watch = Arc::clone(&inner);
        inner.runtime.spawn(async move {
            watch.closed.run_until_cancelled(watch.watch_signals()).await;
        });
        Self { inner }
    }

    /// Ends all waiting: the mount is gone, and nobody hears an answer.
    pub(super) fn close(&self) {
        self.inner.closed.cancel();
    }

    /// Returns the token that ends whatever else belongs to the mount.
    pub(super) fn closed(&self) -> CancellationToken {
        self.inner.closed.clone()
    }

    /// Does `work` for the thread `tid` and gives its result to `reply`, exactly once.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        tid: u32,
        patience: Patience,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
        reply: impl FnOnce(Result<T, Error>) + Send + 'static,
    ) {
        let _entered = self.inner.runtime.enter();
        let mut work: Work<T> = AssertUnwindSafe(work)
            .catch_unwind()
            .map(|ended| ended.unwrap_or(Err(Error::Panicked)))
            .boxed();
        if let Poll::Ready(result) = work.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            return reply(result);
        }
        match Arc::clone(&self.inner.turns).try_acquire_owned() {
            Err(_) => reply(Err(Error::TooManyWaiting)),
            Ok(turn) => {
                let inner = Arc::clone(&self.inner);
                self.inner.runtime.spawn(inner.wait(turn, tid, patience, work, reply));
            }
        }
    }
}

impl Inner {
    async fn wait<T: Send + 'static>(
        self: Arc<Self>,
        turn: OwnedSemaphorePermit,
        tid: u32,
        patience: Patience,
        mut work: Work<T>,
        reply: impl FnOnce(Result<T, Error>) + Send + 'static,
    ) {
        let deadline = match self.deadline.filter(|_| patience != Patience::Signal) {
            Some(deadline) => tokio::time::sleep(deadline).boxed(),
            None => futures::future::pending().boxed(),
        };
        let grace = match patience {
            Patience::Deadline | Patience::Signal => futures::future::pending().boxed(),
            Patience::Range => tokio::time::sleep(RANGE_GRACE).boxed(),
        };
        let (number, mut interrupted) = self.enter(tid);
        let mut deadline = deadline;
        let result = tokio::select! {
            biased;
            result = &mut work => result,
            () = &mut deadline => Err(Error::TimedOut),
            () = grace => Err(Error::NotYet),
            _ = &mut interrupted => Err(Error::Interrupted),
            () = self.closed.cancelled() => Err(Error::Interrupted),
        };
        let go_on = matches!(result, Err(Error::NotYet));
        reply(result);
        if go_on {
            tokio::select! {
                result = work => drop(result),
                () = deadline => {}
                () = tokio::time::sleep(RANGE_AFTER) => {}
                _ = interrupted => {}
                () = self.closed.cancelled() => {}
            }
        }
        self.callers.lock().by_number.remove(&number);
        drop(turn);
    }

    fn enter(&self, tid: u32) -> (u64, oneshot::Receiver<()>) {
        let (interrupt, interrupted) = oneshot::channel();
        let mut callers = self.callers.lock();
        let number = callers.next;
        callers.next += 1;
        callers.by_number.insert(number, Caller { tid, interrupt });
        drop(callers);
        self.came.notify_one();
        (number, interrupted)
    }

    async fn watch_signals(&self) {
        loop {
            if self.callers.lock().by_number.is_empty() {
                self.came.notified().await;
            }
            tokio::time::sleep(SIGNAL_TICK).await;
            let waiting: Vec<(u64, u32)> = {
                let callers = self.callers.lock();
                callers.by_number.iter().map(|(number, caller)| (*number, caller.tid)).collect()
            };
            for (number, tid) in waiting {
                if is_interrupted(tid)
                    && let Some(caller) = self.callers.lock().by_number.remove(&number)
                {
                    // A request that was answered meanwhile no longer listens.
                    caller.interrupt.send(()).ok();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Instant;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// Answers one request and returns what its caller hears.
    fn answer(
        requests: &Requests,
        patience: Patience,
        work: impl Future<Output = Result<u32, Error>> + Send + 'static,
    ) -> Result<u32, String> {
        let (send, receive) = sync_channel(1);
        let tid = nix::unistd::gettid().as_raw().unsigned_abs();
        requests.answer(tid, patience, work, move |result| send.send(result).unwrap());
        receive.recv_timeout(SOON).unwrap().map_err(|error| error.to_string())
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn what_is_ready_is_answered_on_the_thread_that_asks() {
        let runtime = runtime();
        let requests = Requests::new(runtime.handle().clone(), None);
        let here = std::thread::current().id();
        requests.answer(0, Patience::Deadline, async { Ok(7) }, move |result| {
            assert_eq!(std::thread::current().id(), here);
            assert!(matches!(result, Ok(7)));
        });
    }

    #[test]
    fn what_waits_is_answered_later() {
        let runtime = runtime();
        let requests = Requests::new(runtime.handle().clone(), None);
        let work = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(7)
        };
        assert_eq!(answer(&requests, Patience::Deadline, work), Ok(7));
        // The caller is forgotten after it was answered.
        let give_up = Instant::now() + Duration::from_secs(10);
        while !requests.inner.callers.lock().by_number.is_empty() {
            assert!(Instant::now() < give_up, "the caller is still known");
        }
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let runtime = runtime();
        let requests = Requests::new(runtime.handle().clone(), Some(Duration::from_millis(20)));
        let result = answer(&requests, Patience::Deadline, futures::future::pending());
        assert_eq!(result, Err(Error::TimedOut.to_string()));
    }

    #[test]
    fn a_range_is_given_up_early_but_its_work_goes_on() {
        let runtime = runtime();
        let requests = Requests::new(runtime.handle().clone(), None);
        let (send, receive) = sync_channel(1);
        let work = async move {
            tokio::time::sleep(RANGE_GRACE + Duration::from_millis(200)).await;
            send.send(()).unwrap();
            Ok(7)
        };
        let result = answer(&requests, Patience::Range, work);
        assert_eq!(result, Err(Error::NotYet.to_string()));
        receive.recv_timeout(SOON).unwrap();
    }

    #[test]
    fn what_a_range_left_under_way_ends_with_its_caller() {
        let runtime = runtime();
        let requests = Requests::new(runtime.handle().clone(), None);
        let (tell_tid, tid) = sync_channel(1);
        let (end, ended) = sync_channel::<()>(0);
        let caller = std::thread::spawn(move || {
            tell_tid.send(nix::unistd::gettid().as_raw().unsigned_abs()).unwrap();
            ended.recv().unwrap();
        });
        let (alive, dropped) = sync_channel::<()>(1);
        let work = async move {
            let _alive = alive;
            futures::future::pending::<Result<u32, Error>>().await
        };
        let (send, receive) = sync_channel(1);
        let reply = move |result| send.send(result).unwrap();
        requests.answer(tid.recv().unwrap(), Patience::Range, work, reply);
        assert!(matches!(receive.recv_timeout(SOON).unwrap(), Err(Error::NotYet)));
        end.send(()).unwrap();
        caller.join().unwrap();
        let gone = dropped.recv_timeout(SOON).unwrap_err();
        assert_eq!(gone, std::sync::mpsc::RecvTimeoutError::Disconnected);
    }

    #[test]
    fn a_panic_is_an_error_of_its_request_alone() {
        let runtime = runtime();
        let requests = Requests::new(runtime.handle().clone(), None);
        let at_once = answer(&requests, Patience::Deadline, async { panic!("on purpose") });
        assert_eq!(at_once, Err(Error::Panicked.to_string()));
        let later = async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        };
        assert_eq!(answer(&requests, Patience::Deadline, later), Err(Error::Panicked.to_string()));
        assert_eq!(answer(&requests, Patience::Deadline, async { Ok(1) }), Ok(1));
    }

    #[test]
    fn as_many_wait_as_are_allowed_and_no_more() {
        let runtime = runtime();
        let requests = Requests::new(runtime.handle().clone(), None);
        let all = u32::try_from(WAITING_MAX).unwrap();
        let taken = Arc::clone(&requests.inner.turns).try_acquire_many_owned(all).unwrap();
        let result = answer(&requests, Patience::Deadline, futures::future::pending());
        assert_eq!(result, Err(Error::TooManyWaiting.to_string()));
        drop(taken);
    }

    #[test]
    fn closing_ends_all_waiting() {
        let runtime = runtime();
        let requests = Requests::new(runtime.handle().clone(), None);
        let (send, receive) = sync_channel(1);
        let work = futures::future::pending::<Result<u32, Error>>();
        requests.answer(0, Patience::Deadline, work, move |result| send.send(result).unwrap());
        requests.close();
        assert!(matches!(receive.recv_timeout(SOON).unwrap(), Err(Error::Interrupted)));
    }
}
