//! Reaching brokers by their internal addresses, before and beside the metadata quorum.

use std::{collections::BTreeSet, future::Future, net::SocketAddr};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tonic::transport::{Channel, Endpoint};

use crate::limits;

/// A channel that connects when it is first used; `None` for what is no address.
pub(crate) fn lazy_channel(address: &str) -> Option<Channel> {
    Some(endpoint(address).ok()?.connect_lazy())
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(limits::INTERNAL_CONNECT_WITHIN)
        .http2_keep_alive_interval(limits::INTERNAL_PING_EVERY)
        .keep_alive_timeout(limits::INTERNAL_PING_WITHIN)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

/// Asks all brokers behind `seeds` at once, other than `own` address, and answers with the first
/// answer that is one; else with what the attempts came to, in words.
///
/// Names are looked up each time: a name server may learn of brokers later than they start, and a
/// name may stand for many.
pub(crate) async fn ask_seeds<T, F>(seeds: &[String], own: &str, ask: impl Fn(Channel) -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let (addresses, mut problems) = resolve(seeds, own).await;
    let asked = addresses.into_iter().map(|address| {
        let ask = &ask;
        async move {
            let answer = async {
                let endpoint = endpoint(&address.to_string()).map_err(|error| error.to_string())?;
                let channel = endpoint.connect().await.map_err(|error| in_full(&error))?;
                ask(channel).await
            };
            match tokio::time::timeout(limits::SEED_WITHIN, answer).await {
                Ok(answer) => answer.map_err(|problem| format!("{address}: {problem}")),
                Err(_) => Err(format!("{address}: no answer within {:?}", limits::SEED_WITHIN)),
            }
        }
    });
    let mut asked: FuturesUnordered<_> = asked.collect();
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(answer) => return Ok(answer),
            Err(problem) => problems.push(problem),
        }
    }
    problems.sort();
    Err(problems.join("; "))
}

async fn resolve(seeds: &[String], own: &str) -> (BTreeSet<SocketAddr>, Vec<String>) {
    let mut addresses = BTreeSet::new();
    let mut problems = Vec::new();
    for seed in seeds {
        match tokio::net::lookup_host(seed.as_str()).await {
            Ok(found) => addresses.extend(found.take(limits::ADDRESSES_PER_SEED)),
            Err(error) => problems.push(format!("{seed}: {error}")),
        }
    }
    // The one asking does not serve yet: it would wait for itself.
    if let Ok(found) = tokio::net::lookup_host(own).await {
        for address in found {
            addresses.remove(&address);
        }
    }
    if addresses.is_empty() && problems.is_empty() {
        problems.push("the seeds are this broker itself".into());
    }
    (addresses, problems)
}

/// An error with its causes.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
