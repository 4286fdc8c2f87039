//! Prints how long plans for a large cluster take: `cargo run --release --example plan_time [brokers] [partitions]`.

use std::{collections::BTreeMap, time::Instant};

use millrace_placement::{
    Broker, BrokerState, Cluster, Options, Partition, Plan, add_brokers, balance_leaders, change_replication_factor,
    create_partitions, drain_brokers, repair_racks,
};
use uuid::Uuid;

fn brokers(count: usize, racks: usize) -> Vec<Broker> {
    let rack = |id: usize| format!("rack-{}", id % racks);
    (0..count)
        .map(|id| Broker::new(id as i32).with_rack(rack(id)))
        .collect()
}

/// `partitions` in topics of 100, as they would be created.
fn cluster(brokers: Vec<Broker>, partitions: usize) -> Result<Cluster, Box<dyn std::error::Error>> {
    let mut all: Vec<Partition> = Vec::new();
    for number in 0..partitions.div_ceil(100) {
        let topic = Uuid::from_u128(number as u128);
        let cluster = Cluster::new(brokers.clone(), all.clone())?;
        let placed = create_partitions(&cluster, topic, 100, 3, &Options::default())?;
        for (at, replicas) in (0u32..).zip(placed.replicas) {
            let bytes = 1_000_000 * (1 + u64::from(at) * 7 % 50);
            all.push(Partition::new(topic, at, replicas, bytes));
        }
    }
    Ok(Cluster::new(brokers, all)?)
}

fn timed<E: std::error::Error + 'static>(
    what: &str,
    plan: impl Fn() -> Result<Plan, E>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut times = Vec::new();
    let mut last = Plan::default();
    for _ in 0..5 {
        let start = Instant::now();
        last = plan()?;
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "{what:<28} {:>9.1} ms   {:>6} replicas moved   {:>9} steps",
        times[2].as_secs_f64() * 1e3,
        last.replicas_moved(),
        last.steps
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<usize>());
    let count = numbers.next().transpose()?.unwrap_or(100);
    let partitions = numbers.next().transpose()?.unwrap_or(10_000);
    let options = Options::default();
    let exact = Options {
        tolerance_percent: 0,
        ..options
    };
    for racks in [1, 3, count] {
        println!("{partitions} partitions x 3 on {count} brokers in {racks} racks");
        let whole = cluster(brokers(count, racks), partitions)?;
        let empty = Cluster::new(brokers(count, racks), Vec::new())?;
        let start = Instant::now();
        create_partitions(&empty, Uuid::nil(), partitions, 3, &options)?;
        println!("{:<28} {:>9.1} ms", "create", start.elapsed().as_secs_f64() * 1e3);

        let tenth = (count / 10).max(1);
        let mut listed = brokers(count, racks);
        for broker in &mut listed[count - tenth..] {
            broker.state = BrokerState::Draining;
        }
        let draining = Cluster::new(listed, whole.partitions().to_vec())?;
        timed("drain a tenth", || drain_brokers(&draining, &options))?;

        let grown = Cluster::new(brokers(count + tenth, racks), whole.partitions().to_vec())?;
        let new: Vec<i32> = (count as i32..(count + tenth) as i32).collect();
        timed("add a tenth", || add_brokers(&grown, &new, &options))?;
        timed("add a tenth, exactly", || add_brokers(&grown, &new, &exact))?;

        let mut listed = brokers(count, racks);
        for broker in listed.iter_mut().step_by(7) {
            broker.rack = Some("rack-0".into());
        }
        let misplaced = Cluster::new(listed, whole.partitions().to_vec())?;
        timed("repair a seventh", || repair_racks(&misplaced, &options))?;

        let sorted = whole.partitions().iter().cloned().map(|mut partition| {
            partition.replicas.sort_unstable();
            partition.leader = partition.replicas.first().copied();
            partition
        });
        let skewed = Cluster::new(brokers(count, racks), sorted.collect())?;
        timed("balance leaders", || Ok::<_, std::fmt::Error>(balance_leaders(&skewed)))?;

        let topics = (0..partitions.div_ceil(100)).map(|number| Uuid::from_u128(number as u128));
        let factors: BTreeMap<Uuid, usize> = topics.map(|topic| (topic, 4)).collect();
        timed("factor 3 to 4", || {
            change_replication_factor(&whole, &factors, &options)
        })?;
        let fewer = factors.into_keys().map(|topic| (topic, 2)).collect();
        timed("factor 3 to 2", || change_replication_factor(&whole, &fewer, &options))?;
    }
    Ok(())
}
