//! How many connections a process can afford.

use std::thread;

use tokio::runtime::Handle;

/// How many connections each worker of the runtime should have to look after, at most.
const PER_WORKER: usize = 1024;

/// A limit for this process: 1024 for each worker thread of the runtime (each core, outside of one), and
/// never more than its descriptors allow after `reserve` and its other needs.
pub(crate) fn affordable(reserve: usize) -> usize {
    let workers = Handle::try_current().map_or_else(
        |_| thread::available_parallelism().map_or(1, usize::from),
        |runtime| runtime.metrics().num_workers(),
    );
    within(descriptors(), reserve, workers * PER_WORKER)
}

/// As many as wanted, if there are descriptors for them.
///
/// A quarter of the descriptors, from 32 to 1024, is left to the process: files, databases, upstreams.
fn within(descriptors: usize, reserve: usize, wanted: usize) -> usize {
    let others = (descriptors / 4).clamp(32, 1024);
    let left = descriptors.saturating_sub(others).saturating_sub(reserve);
    wanted.min(left).max(1)
}

/// `RLIMIT_NOFILE`, as it is now (the soft limit).
#[cfg(unix)]
pub(crate) fn descriptors() -> usize {
    use rustix::process::{Resource, getrlimit};

    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

#[cfg(not(unix))]
pub(crate) fn descriptors() -> usize {
    usize::MAX
}

#[cfg(all(test, not(tower_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_workers_decide_while_there_are_descriptors() {
        assert_eq!(within(65_536, 128, 2_048), 2_048);
        assert_eq!(within(usize::MAX, 128, 2_048), 2_048);
    }

    #[test]
    fn the_descriptors_decide_when_they_are_few() {
        assert_eq!(within(1_024, 128, 4_096), 1_024 - 256 - 128);
        assert_eq!(within(64, 8, 4_096), 64 - 32 - 8);
    }

    #[test]
    fn one_connection_is_always_possible() {
        assert_eq!(within(3, 128, 4_096), 1);
    }
}
