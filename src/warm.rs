//! Sandboxes that are kept ready, so that starting a server takes no longer than `execve`.
//!
//! A ready sandbox is built, locked down and waits at its gate (`palisade_sandbox::lockdown`). It holds no
//! secret and nothing of the image has run in it. It may have died meanwhile (somebody killed it, the host
//! ran out of memory): then the next one is taken, and in the end one is built as if there were no pool.
//!
//! Sandboxes are built on threads of their own, one at a time for each server. When the pool is dropped, or
//! the process ends in whatever way, the sockets to its sandboxes close and they end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade_sandbox::{CreatedSandbox, PreparedSandbox, RunningSandbox, SandboxSpec, Secrets, SpawnError};

/// The sandboxes of one server.
#[derive(Debug)]
pub(crate) struct WarmPool {
    prepared: PreparedSandbox,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<CreatedSandbox>,
    /// How many there should be.
    wanted: usize,
    /// Whether a thread is building them.
    filling: bool,
}

impl WarmPool {
    pub(crate) fn new(prepared: PreparedSandbox) -> Self {
        Self { prepared, state: Mutex::default() }
    }

    pub(crate) fn spec(&self) -> &SandboxSpec {
        self.prepared.spec()
    }

    /// Keeps `wanted` sandboxes ready from now on.
    pub(crate) fn keep(self: &Arc<Self>, wanted: u32) {
        self.lock().wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        self.fill();
    }

    /// Starts the server in a sandbox that is ready, or in a new one.
    pub(crate) fn start(self: &Arc<Self>, secrets: &Secrets) -> Result<RunningSandbox, SpawnError> {
        let started = self.start_one(secrets);
        self.fill();
        started
    }

    fn start_one(&self, secrets: &Secrets) -> Result<RunningSandbox, SpawnError> {
        // The lock must not be held while a sandbox starts.
        while let Some(ready) = self.take() {
            match ready.start(secrets) {
                Err(error @ SpawnError::Supervisor { .. }) => {
                    tracing::warn!("a sandbox that was kept ready is gone: {error}");
                }
                started => return started,
            }
        }
        self.prepared.spawn(secrets)
    }

    fn take(&self) -> Option<CreatedSandbox> {
        self.lock().ready.pop_front()
    }

    /// Starts the thread that builds, unless it runs or nothing is missing.
    fn fill(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            if state.filling || state.ready.len() >= state.wanted {
                return;
            }
            state.filling = true;
        }
        let pool = Arc::downgrade(self);
        // Weak: the thread must not keep the pool alive that nobody will take from any more.
        let built = std::thread::Builder::new()
            .name("warm".into())
            .spawn(move || while pool.upgrade().is_some_and(|pool| pool.build_one()) {});
        if let Err(error) = built {
            tracing::warn!("no sandbox can be kept ready: {error}");
            self.lock().filling = false;
        }
    }

    /// Builds one; whether another is wanted. A host that cannot build one now is not asked again before the
    /// next start.
    fn build_one(&self) -> bool {
        let created = self.prepared.create();
        let mut state = self.lock();
        match created {
            Ok(created) => state.ready.push_back(created),
            Err(error) => {
                tracing::warn!("a sandbox cannot be kept ready: {error}");
                state.filling = false;
                return false;
            }
        }
        state.filling = state.ready.len() < state.wanted;
        state.filling
    }

    /// A panic while the lock was held left a queue that is still a queue.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
