//! The HTTP port: `/livez`, `/readyz`, `/metrics`.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get};
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// How many objects somebody looks after.
type Known = Box<dyn Fn() -> usize + Send + Sync>;

/// Whether the operator lives: where there are objects, passes over them end.
pub struct Life {
    /// When a pass last ended, or the operator began to lead; none while it stands by.
    last: Mutex<Option<Instant>>,
    silence: Duration,
    known: Mutex<Vec<Known>>,
}

impl Life {
    /// One that is dead after so long without a sign, while it leads.
    #[must_use]
    pub fn new(silence: Duration) -> Self {
        Self {
            last: Mutex::new(None),
            silence,
            known: Mutex::default(),
        }
    }

    /// Passes are to be heard of while there are objects of this kind.
    pub fn expect(&self, known: impl Fn() -> usize + Send + Sync + 'static) {
        self.known.lock().push(Box::new(known));
    }

    /// Something was done.
    pub fn sign(&self) {
        *self.last.lock() = Some(Instant::now());
    }

    fn is_well(&self) -> bool {
        let idle = self.known.lock().iter().all(|known| known() == 0);
        idle || self.last.lock().is_none_or(|last| last.elapsed() < self.silence)
    }
}

/// Serves until the process ends.
///
/// # Errors
/// The port is taken.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>, life: Arc<Life>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: give another address with --http"))?;
    let app = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/metrics", get(text))
        .with_state((metrics, life));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the HTTP port has ended");
        }
    });
    Ok(())
}

async fn livez(State((_, life)): State<(Arc<Metrics>, Arc<Life>)>) -> impl IntoResponse {
    if life.is_well() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let problem = format!("no pass has ended for {:?}\n", life.silence);
        (StatusCode::INTERNAL_SERVER_ERROR, problem)
    }
}

async fn text(State((metrics, _)): State<(Arc<Metrics>, Arc<Life>)>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_death_only_where_there_is_something_to_do() {
        let life = Life::new(Duration::ZERO);
        assert!(life.is_well(), "it stands by");
        life.sign();
        assert!(life.is_well(), "nothing is there to look after");
        life.expect(|| 0);
        assert!(life.is_well());
        life.expect(|| 1);
        assert!(!life.is_well());
    }
}
