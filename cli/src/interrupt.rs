//! Ctrl-C and SIGTERM where a command ends what it has begun, and tells how far it came.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::limits;

/// What ends a command from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// SIGINT.
    CtrlC,
    /// SIGTERM.
    Terminated,
}

impl Interrupt {
    /// As shells tell of a process that the signal ended: 128 and its number.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::CtrlC => 130,
            Self::Terminated => 143,
        }
    }
}

/// The command was ended from outside, before it was done.
#[derive(Debug, Error)]
#[error("interrupted: {done}")]
pub struct InterruptedError {
    /// What ended it.
    pub by: Interrupt,
    /// What was done until then.
    pub done: String,
}

/// Interrupts as they come, to each clone for itself. From its making on they do not end the process by themselves,
/// unless nobody asks for them: a command whose output nobody reads stands in a write.
#[derive(Clone)]
pub struct Interrupts {
    came: watch::Receiver<Option<Interrupt>>,
    /// Whether the last one was told.
    is_told: Arc<AtomicBool>,
}

impl Interrupts {
    /// Begins to take them; within a runtime.
    ///
    /// # Errors
    /// The system takes no handler.
    pub fn take() -> io::Result<Self> {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (sender, came) = watch::channel(None);
        let taken = Self::of(came);
        let is_told = taken.is_told.clone();
        tokio::spawn(async move {
            loop {
                let by = tokio::select! {
                    Some(()) = interrupt.recv() => Interrupt::CtrlC,
                    Some(()) = terminate.recv() => Interrupt::Terminated,
                    else => return,
                };
                is_told.store(false, Ordering::Release);
                if sender.send(Some(by)).is_err() {
                    return;
                }
                tokio::time::sleep(limits::INTERRUPT_UNTOLD).await;
                if !is_told.load(Ordering::Acquire) {
                    std::process::exit(by.exit_code().into());
                }
            }
        });
        Ok(taken)
    }

    fn of(came: watch::Receiver<Option<Interrupt>>) -> Self {
        let is_told = Arc::new(AtomicBool::new(false));
        Self { came, is_told }
    }

    /// Whether one came that was not told yet. Cheap enough for each record.
    pub fn came(&self) -> bool {
        let came = self.came.has_changed().unwrap_or(false);
        if came {
            self.is_told.store(true, Ordering::Release);
        }
        came
    }

    /// The work's result, or what interrupted it.
    ///
    /// # Errors
    /// The interrupt that came before the work was done.
    pub async fn until<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        tokio::select! {
            biased;
            by = self.next() => Err(by),
            done = work => Ok(done),
        }
    }

    /// The next one; one that came before and was not told yet counts.
    pub async fn next(&mut self) -> Interrupt {
        while self.came.changed().await.is_ok() {
            if let Some(by) = *self.came.borrow_and_update() {
                self.is_told.store(true, Ordering::Release);
                return by;
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_ends_with_its_result_or_with_the_interrupt() {
        let (sender, receiver) = watch::channel(None);
        let mut interrupts = Interrupts::of(receiver);
        assert_eq!(interrupts.until(async { 7 }).await, Ok(7));
        assert!(!interrupts.came());
        sender.send(Some(Interrupt::Terminated)).unwrap();
        assert!(interrupts.came());
        let waiting = interrupts.until(std::future::pending::<()>()).await;
        assert_eq!(waiting, Err(Interrupt::Terminated));
        assert!(!interrupts.came(), "each is told once");
    }
}
