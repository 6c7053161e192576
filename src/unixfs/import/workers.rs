//! Threads that read and hash, and the order in which their answers are taken.
//!
//! Work is given and answers are taken by one thread, in the same order, so that layouts and
//! stored blocks do not depend on timing. What is in flight is bounded in number; each job is
//! bounded in bytes by whoever makes it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::error::ImportError;

/// Jobs given but not answered: enough to keep 16 threads busy behind one slow job; at 2 MiB for
/// each job this bounds the memory of an import to about 64 MiB (twice that for a big file
/// behind a queue of small ones).
pub(super) const JOBS_IN_FLIGHT_MAX: usize = 32;
/// More threads than this wait for the one that gives out work.
const THREADS_MAX: usize = 16;

type Job = Box<dyn FnOnce() + Send>;

/// Threads, started one by one as work comes.
#[derive(Debug)]
pub(super) struct Workers {
    jobs: Option<SyncSender<Job>>,
    queue: Arc<Mutex<Receiver<Job>>>,
    threads: Vec<JoinHandle<()>>,
    threads_max: usize,
}

impl Workers {
    /// Takes the number of threads; 0 means one for each processor.
    pub(super) fn new(threads: usize) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let wanted = if threads == 0 { processors() } else { threads };
        let (jobs, queue) = sync_channel(2 * JOBS_IN_FLIGHT_MAX);
        Self {
            jobs: Some(jobs),
            queue: Arc::new(Mutex::new(queue)),
            threads: Vec::new(),
            threads_max: wanted.min(THREADS_MAX),
        }
    }

    /// Gives out a job.
    pub(super) fn give<T: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> Result<T, ImportError> + Send + 'static,
    ) -> Result<Answer<T>, ImportError> {
        if self.threads.len() < self.threads_max {
            self.start()?;
        }
        let (sender, answer) = sync_channel(1);
        let job: Job = Box::new(move || {
            // Nobody waits for the answer when the import has already failed.
            sender.send(job()).ok();
        });
        match &self.jobs {
            Some(jobs) if jobs.send(job).is_ok() => Ok(Answer(answer)),
            _ => Err(ImportError::Thread("all threads ended".to_owned())),
        }
    }

    fn start(&mut self) -> Result<(), ImportError> {
        let queue = Arc::clone(&self.queue);
        let thread = std::thread::Builder::new().name("import".to_owned()).spawn(move || {
            loop {
                let job = queue.lock().recv();
                let Ok(job) = job else { break };
                // A panic drops the sender, which is the answer; the thread lives on.
                catch_unwind(AssertUnwindSafe(job)).ok();
            }
        });
        match thread {
            Ok(thread) => self.threads.push(thread),
            Err(error) if self.threads.is_empty() => {
                return Err(ImportError::Thread(error.to_string()));
            }
            // The threads that run do the work.
            Err(_) => self.threads_max = self.threads.len(),
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Its panics were caught.
            thread.join().ok();
        }
    }
}

/// The place where the answer to a job arrives.
#[derive(Debug)]
pub(super) struct Answer<T>(Receiver<Result<T, ImportError>>);

impl<T> Answer<T> {
    /// Waits for the answer.
    pub(super) fn take(self) -> Result<T, ImportError> {
        self.0.recv().unwrap_or_else(|_| Err(ImportError::Thread("it panicked".to_owned())))
    }
}

/// Answers that are awaited, in the order of their jobs, each with what it belongs to.
#[derive(Debug)]
pub(super) struct InFlight<K, T> {
    answers: VecDeque<(K, Answer<T>)>,
}

impl<K, T> InFlight<K, T> {
    pub(super) fn new() -> Self {
        Self { answers: VecDeque::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.answers.len() >= JOBS_IN_FLIGHT_MAX
    }

    pub(super) fn add(&mut self, key: K, answer: Answer<T>) {
        self.answers.push_back((key, answer));
    }

    /// Returns the oldest.
    pub(super) fn next(&mut self) -> Option<(K, Answer<T>)> {
        self.answers.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_jobs() {
        let mut workers = Workers::new(4);
        let mut flight = InFlight::new();
        for key in 0..20_u64 {
            let job = move || {
                std::thread::sleep(std::time::Duration::from_millis(20 - key));
                Ok(key * key)
            };
            flight.add(key, workers.give(job).unwrap());
        }
        for key in 0..20 {
            let (got, answer) = flight.next().unwrap();
            assert_eq!((got, answer.take().unwrap()), (key, key * key));
        }
    }

    #[test]
    fn a_panic_is_an_error_and_no_hang() {
        let mut workers = Workers::new(2);
        for _ in 0..3 {
            let broken = workers.give(|| -> Result<(), _> { panic!("as the test wants") }).unwrap();
            assert!(matches!(broken.take(), Err(ImportError::Thread(_))));
        }
        assert_eq!(workers.give(|| Ok(7)).unwrap().take().unwrap(), 7);
    }
}
