//! How it is asked and told. Behind the API server's proxy, so every call is short or can be made again.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Query, State},
    routing::{get, post},
};
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::{
    finish::finish,
    status::{Status, status},
    work::{Mode, Work},
};

/// How long the end may take if it is not said.
const FINISH_WITHIN_SECONDS: u64 = 300;

#[derive(Deserialize)]
struct FinishQuery {
    within_seconds: Option<u64>,
}

/// Serves until the process ends.
pub async fn serve(work: Arc<Work>) -> anyhow::Result<()> {
    let address = work.options.http;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: give another address with --http"))?;
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/status", get(tell))
        .route(
            "/pause",
            post(async |State(work): State<Arc<Work>>| change(&work, Mode::Paused)),
        )
        .route(
            "/resume",
            post(async |State(work): State<Arc<Work>>| change(&work, Mode::Producing)),
        )
        .route("/mark", post(mark))
        .route("/finish", post(end))
        .with_state(work);
    axum::serve(listener, app).await.context("the HTTP port has ended")
}

async fn tell(State(work): State<Arc<Work>>) -> Json<Status> {
    // While it is being ended the lock is held.
    let undone = work.end.try_lock().ok().and_then(|end| end.clone());
    Json(status(&work, undone))
}

fn change(work: &Work, mode: Mode) -> Json<Status> {
    work.set_mode(mode);
    Json(status(work, None))
}

async fn mark(State(work): State<Arc<Work>>) -> Json<Status> {
    let before = status(&work, None);
    work.mark();
    Json(before)
}

async fn end(State(work): State<Arc<Work>>, Query(query): Query<FinishQuery>) -> Json<Status> {
    let within = Duration::from_secs(query.within_seconds.unwrap_or(FINISH_WITHIN_SECONDS));
    // In a task of its own: whoever asked may go away.
    let ended = tokio::spawn({
        let work = work.clone();
        async move { finish(&work, within).await }
    });
    let undone = ended.await.unwrap_or_else(|error| vec![error.to_string()]);
    Json(status(&work, Some(undone)))
}
