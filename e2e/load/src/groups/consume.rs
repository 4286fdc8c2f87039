//! What it costs a broker that a group reads a topic: by the client, which fetches whole batches, or through
//! `Messaging.Subscribe`, which hands out single messages to plain stubs.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use millrace_client::{Client, GroupEvent};
use millrace_proto::v1::{
    SubscribeCredit, SubscribeOpen, SubscribeRequest, messaging_client::MessagingClient, subscribe_request::Request,
    subscribe_response::Response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Messages that may be on their way to a subscriber: some of its answers of 1 MiB.
const CREDIT: u32 = 100_000;
/// Until the next messages.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest answer of a broker.
const MOST_BYTES: usize = 32 << 20;

/// What is read, and how.
#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    /// A topic, from its beginning.
    #[arg(long)]
    topic: String,
    /// The group, which has not read it yet.
    #[arg(long)]
    group: String,
    /// How many messages.
    #[arg(long)]
    messages: u64,
    /// By which way.
    #[arg(long)]
    by: By,
    /// The broker's process, for the CPU time that it takes meanwhile. On the same machine.
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
}

/// The ways to read.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    /// The client's group consumer.
    Client,
    /// One stream of `Messaging.Subscribe`.
    Subscribe,
}

/// Reads as one member; fails if nothing comes any more.
pub async fn run(bootstrap: &str, args: ConsumeArgs) -> anyhow::Result<serde_json::Value> {
    let cpu_before = cpu_of(args.broker_pid)?;
    let began = Instant::now();
    let read = match args.by {
        By::Client => by_client(bootstrap, &args).await?,
        By::Subscribe => by_subscribe(bootstrap, &args).await?,
    };
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_of(args.broker_pid)?
        .zip(cpu_before)
        .map(|(after, before)| (after - before).as_secs_f64());
    Ok(serde_json::json!({
        "by": args.by.to_possible_value().map(|by| by.get_name().to_owned()),
        "messages": read,
        "seconds": seconds,
        "messages_per_second": read as f64 / seconds,
        "broker_cpu_seconds": cpu,
        "broker_cpu_ns_per_message": cpu.map(|cpu| cpu * 1e9 / read as f64),
    }))
}

async fn by_client(bootstrap: &str, args: &ConsumeArgs) -> anyhow::Result<u64> {
    let client = Client::connect(bootstrap).await?;
    let mut member = client.group_consumer(&*args.group).topics([&*args.topic]).build()?;
    let mut read = 0;
    while read < args.messages {
        let event = tokio::time::timeout(PATIENCE, member.poll()).await;
        match event.context("nothing comes any more")?? {
            GroupEvent::Records(records) => records.for_each(|_| read += 1)?,
            GroupEvent::Assigned(_) => {}
            other => bail!("it is the only member, and yet: {other:?}"),
        }
    }
    member.close().await?;
    Ok(read)
}

async fn by_subscribe(bootstrap: &str, args: &ConsumeArgs) -> anyhow::Result<u64> {
    let stub = MessagingClient::connect(format!("http://{bootstrap}")).await?;
    let mut stub = stub.max_decoding_message_size(MOST_BYTES);
    let (requests, queue) = mpsc::channel(16);
    let open = SubscribeOpen {
        group: args.group.clone(),
        topics: vec![args.topic.clone()],
        credit: Some(credit(CREDIT, 0)),
        ..SubscribeOpen::default()
    };
    requests.send(request(Request::Open(open))).await?;
    let mut told = stub.subscribe(ReceiverStream::new(queue)).await?.into_inner();
    let (mut read, mut owed) = (0, 0);
    while read < args.messages {
        let next = tokio::time::timeout(PATIENCE, told.message()).await;
        let next = next.context("nothing comes any more")??.context("the stream ended")?;
        match next.response {
            Some(Response::Messages(delivery)) => {
                let count = u32::try_from(delivery.messages.len())?;
                read += u64::from(count);
                owed += count;
                // As a service would: now and then, and not for each delivery.
                if owed >= CREDIT / 4 {
                    let more = credit(std::mem::take(&mut owed), delivery.delivery_id);
                    requests.send(request(Request::Credit(more))).await?;
                }
            }
            Some(Response::Opened(_) | Response::Assigned(_)) => {}
            other => bail!("it is the only member, and yet: {other:?}"),
        }
    }
    Ok(read)
}

fn request(request: Request) -> SubscribeRequest {
    SubscribeRequest {
        id: 0,
        request: Some(request),
    }
}

fn credit(messages: u32, processed_through: u64) -> SubscribeCredit {
    SubscribeCredit {
        messages,
        bytes: 0,
        processed_through,
    }
}

/// User and system time of a process so far (proc_pid_stat(5)).
fn cpu_of(pid: Option<u32>) -> anyhow::Result<Option<Duration>> {
    let Some(pid) = pid else { return Ok(None) };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the broker's process")?;
    // Behind the command's name, which may have spaces: the state is the third field, the times are the 14th and 15th, in
    // hundredths of a second on all of Linux.
    let fields = stat.rsplit_once(')').context("no process")?.1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    Ok(Some(Duration::from_millis(ticks * 10)))
}
