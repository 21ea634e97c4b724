//! What a test hears of `tracing`, for the tests of the layers.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{Level, subscriber::DefaultGuard};

/// The events of one target, for as long as this test listens.
pub struct Log {
    target: &'static str,
    text: Writer,
    _listening: DefaultGuard,
}

/// Every test of a file does, before anything else: what is first said where nobody listens is taken for what nobody wants to
/// hear, in the other tests too (tracing-core 0.1.36, `callsite.rs`, `Rebuilder::JustOne`).
#[must_use]
pub fn listen(level: Level, target: &'static str) -> Log {
    let text = Writer::default();
    let writer = text.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    Log {
        target,
        text,
        _listening: tracing::subscriber::set_default(subscriber),
    }
}

impl Log {
    /// A line for each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let text = self.text.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&text);
        let ours = text.lines().filter(|line| line.contains(self.target));
        ours.map(str::to_owned).collect()
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("target", &self.target)
            .field("lines", &self.lines())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Default)]
struct Writer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
