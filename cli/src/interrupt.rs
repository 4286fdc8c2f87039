//! Ctrl-C and SIGTERM where a command ends what it has begun, and tells how far it came.

use std::{future::Future, io};

use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

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

/// Interrupts as they come, to each clone for itself. From its making on they do not end the process by themselves.
#[derive(Clone)]
pub struct Interrupts(watch::Receiver<Option<Interrupt>>);

impl Interrupts {
    /// Begins to take them; within a runtime.
    ///
    /// # Errors
    /// The system takes no handler.
    pub fn take() -> io::Result<Self> {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let by = tokio::select! {
                    Some(()) = interrupt.recv() => Interrupt::CtrlC,
                    Some(()) = terminate.recv() => Interrupt::Terminated,
                    else => return,
                };
                if sender.send(Some(by)).is_err() {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// Whether one came that was not told yet. Cheap enough for each record.
    pub fn came(&self) -> bool {
        self.0.has_changed().unwrap_or(false)
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
        while self.0.changed().await.is_ok() {
            if let Some(by) = *self.0.borrow_and_update() {
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
        let mut interrupts = Interrupts(receiver);
        assert_eq!(interrupts.until(async { 7 }).await, Ok(7));
        assert!(!interrupts.came());
        sender.send(Some(Interrupt::Terminated)).unwrap();
        assert!(interrupts.came());
        let waiting = interrupts.until(std::future::pending::<()>()).await;
        assert_eq!(waiting, Err(Interrupt::Terminated));
        assert!(!interrupts.came(), "each is told once");
    }
}
