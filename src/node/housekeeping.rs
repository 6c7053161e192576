//! What a node does by itself: it makes room when the cap nears, writes down what was used, lays out
//! files that came block by block, gives memory back, and reads all packs once in a while to find what the
//! disk has damaged.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::keep::Keeper;
use crate::store::{Repository, SpaceReport, StoreError};
use crate::sys::memory;

/// How often the times of use are written down: what a crash makes eviction forget.
const TIMES_EVERY: Duration = Duration::from_hours(1);
/// How often it is looked whether a pack is due to be read again.
const SCRUB_EVERY: Duration = Duration::from_mins(10);
/// A pack is read again after this time: RAID scrubs and the like run once a month too.
const SCRUB_AGE: Duration = Duration::from_hours(30 * 24);
/// When no more room could be made, the next try is after this time: the search for what is pinned
/// must not be all that the disk does.
const RETRY_AFTER: Duration = Duration::from_mins(1);
/// Longest pause after a batch of evictions; it pauses as long as the batch took, so that readers
/// and writers have half of the disk at least.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// How often it is looked whether memory can be given back, …
const GIVE_BACK_EVERY: Duration = Duration::from_secs(15);
/// … and how much the process must hold for that, in bytes: what many requests took at once stays with the
/// allocator, in pieces that are free and lie between others.
const GIVE_BACK_FROM: usize = 256 * 1024 * 1024;

/// The tasks of a node; they end soon after this is dropped.
#[derive(Debug)]
pub(super) struct Housekeeping {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Housekeeping {
    /// Starts the tasks; a rate of zero means that packs are not read.
    pub(super) fn start(
        keeper: &Keeper,
        repository: &Arc<Repository>,
        scrub_bytes_per_s: u64,
        runtime: &Handle,
    ) -> Self {
        let stop = watch::Sender::new(false);
        let stopped = Stopped(stop.subscribe());
        let mut tasks = vec![
            runtime.spawn(evict(keeper.clone(), repository.clone(), stopped.clone())),
            runtime.spawn(keep_times(repository.clone(), stopped.clone())),
            runtime.spawn(gather(keeper.clone(), stopped.clone())),
            runtime.spawn(give_back(stopped.clone())),
        ];
        if scrub_bytes_per_s > 0 {
            tasks.push(runtime.spawn(scrub(repository.clone(), scrub_bytes_per_s, stopped)));
        }
        Self { stop, tasks }
    }

    /// Ends the tasks and waits for them.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the node panicked");
            }
        }
    }
}

/// Tells whether the node stops.
#[derive(Debug, Clone)]
struct Stopped(watch::Receiver<bool>);

impl Stopped {
    /// A sender that is gone stops, too.
    fn now(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.now() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    async fn wait(&mut self) {
        self.0.wait_for(|stop| *stop).await.ok();
    }
}

/// Gives memory back that was needed for a while.
async fn give_back(mut stopped: Stopped) {
    let mut from = GIVE_BACK_FROM;
    loop {
        tokio::select! {
            () = stopped.wait() => return,
            () = sleep(GIVE_BACK_EVERY) => {}
        }
        let held = || memory::resident_bytes().unwrap_or_default();
        from = if held() >= from {
            blocking(memory::give_back).await;
            // What is in use cannot be given back …
            held() / 2 * 3
        } else {
            // … and may not be in use any more after a while.
            from / 4 * 3
        };
        from = from.max(GIVE_BACK_FROM);
    }
}

/// Makes room whenever the store says that its cap nears.
async fn evict(keeper: Keeper, repository: Arc<Repository>, mut stopped: Stopped) {
    let mut pressure = repository.blocks.subscribe_pressure();
    loop {
        tokio::select! {
            () = stopped.wait() => return,
            wanted = pressure.wait_for(|wanted| *wanted) => if wanted.is_err() { return },
        }
        let (keeper, flow) = (keeper.clone(), stopped.clone());
        let made = blocking(move || keeper.make_room(0, &mut slowly(flow))).await;
        let enough = match made {
            Some(Ok(report)) => report.enough,
            Some(Err(error)) => {
                tracing::warn!(%error, "no room can be made in the store");
                false
            }
            None => return,
        };
        if !enough {
            tokio::select! {
                () = stopped.wait() => return,
                () = sleep(RETRY_AFTER) => {}
            }
        }
    }
}

/// Returns a callback that pauses after each batch as long as it took.
fn slowly(stopped: Stopped) -> impl FnMut(&SpaceReport) -> ControlFlow<()> {
    let mut begun = Instant::now();
    move |_| {
        std::thread::sleep(begun.elapsed().min(PAUSE_MAX));
        begun = Instant::now();
        stopped.flow()
    }
}

async fn keep_times(repository: Arc<Repository>, mut stopped: Stopped) {
    while due(TIMES_EVERY, &mut stopped).await {
        let repository = repository.clone();
        if blocking(move || repository.keep_times()).await.is_none() {
            return;
        }
    }
}

/// Lays files out that were opened or pinned.
async fn gather(keeper: Keeper, mut stopped: Stopped) {
    loop {
        tokio::select! {
            () = stopped.wait() => return,
            () = keeper.gather_asked() => {}
        }
        let (keeper, flow) = (keeper.clone(), stopped.clone());
        match blocking(move || keeper.gather(&mut || flow.flow())).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => tracing::warn!(%error, "a file cannot be laid out"),
            None => return,
        }
    }
}

async fn scrub(repository: Arc<Repository>, bytes_per_s: u64, mut stopped: Stopped) {
    while due(SCRUB_EVERY, &mut stopped).await {
        let (repository, flow) = (repository.clone(), stopped.clone());
        let scrubbed = blocking(move || {
            while !flow.now() && repository.is_scrub_due(SCRUB_AGE) {
                let report = repository.scrub(bytes_per_s, &mut |_| flow.flow())?;
                if report.damaged_count > 0 {
                    tracing::error!(
                        damaged = report.damaged_count,
                        "the disk has damaged stored blocks; `cidfs repo verify --repair` fetches \
                         them again"
                    );
                }
            }
            Ok::<_, StoreError>(())
        });
        match scrubbed.await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "a pack cannot be read"),
            None => return,
        }
    }
}

/// Waits for so long; tells whether the node still runs.
async fn due(after: Duration, stopped: &mut Stopped) -> bool {
    tokio::select! {
        () = stopped.wait() => false,
        () = sleep(after) => true,
    }
}

/// Runs work on a thread that may wait for the disk; `None` if it panicked.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::error!(%error, "a task of the node panicked");
            None
        }
    }
}
