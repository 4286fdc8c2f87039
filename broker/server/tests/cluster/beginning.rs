//! Who begins a cluster where all brokers share a configuration with seeds (`begin.node`), and who does not.

use std::{path::Path, sync::Arc};

use millrace_log::{DirIdentity, DirOptions, LogDir, OsFileSystem};
use millrace_server::quorum::{Quorum, QuorumOptions};
use tempfile::TempDir;

use super::node::{Node, free_address, is_available};

const NAMED: &[&str] = &["--format-if-empty", "--set", "begin.node=0"];

/// Three brokers with the same seeds: all of them.
fn alike(folder: &TempDir) -> [Node; 3] {
    let mut nodes = [0, 1, 2].map(|id| Node::new(folder, id, &[]));
    let seeds: Vec<_> = nodes.iter().map(|node| node.internal).collect();
    for node in &mut nodes {
        node.seeds.clone_from(&seeds);
    }
    nodes
}

/// A directory whose broker died just after it was formatted to begin a cluster.
fn format_only(path: &Path, node_id: i32) {
    let identity = DirIdentity {
        cluster_id: "just-formatted".into(),
        node_id,
        directory_id: uuid::Uuid::new_v4(),
    };
    LogDir::format(&OsFileSystem::shared(), path, &identity).unwrap();
}

/// A directory whose broker died between the first file of its quorum and the quorum's first entry.
async fn open_only(path: &Path, node_id: i32) {
    format_only(path, node_id);
    let fs = OsFileSystem::shared();
    let options = DirOptions {
        reserve_bytes: 0,
        expected_cluster_id: None,
        expected_node_id: None,
        expected_directory_id: None,
    };
    let dir = Arc::new(LogDir::open(&fs, path, &options).unwrap());
    let directory_id = dir.identity().directory_id;
    let quorum = Quorum::open(QuorumOptions::new(1, directory_id, "localhost:1", fs, dir))
        .await
        .unwrap();
    assert!(!quorum.is_bootstrapped());
    quorum.shutdown().await;
}

fn was_to_join(node: &Node) -> bool {
    node.data_dir.join("join-state").exists()
}

#[tokio::test]
async fn the_named_broker_begins_and_never_again_once_there_is_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let [mut zero, mut one, mut two] = alike(&folder);
    for waiting in [&mut one, &mut two] {
        waiting.launch_with(NAMED);
        waiting.wait_says("to join their cluster").await;
    }
    zero.launch_with(NAMED);
    for node in [&mut zero, &mut one, &mut two] {
        node.wait_ready().await;
    }
    zero.wait_cluster("three voters", |cluster| {
        let voters = cluster.quorum.as_ref().map_or(0, |quorum| quorum.voters.len());
        voters == 3 && (0..3).all(|id| is_available(cluster, id))
    })
    .await;
    assert_eq!([&zero, &one, &two].map(was_to_join), [false, true, true]);
    let cluster_id = zero.cluster().await.cluster_id;

    // With its own disk it starts as always.
    assert!(zero.stop().await.success());
    zero.launch_with(NAMED);
    zero.wait_ready().await;
    assert_eq!(zero.cluster().await.cluster_id, cluster_id);

    // Its disk is lost, and the quorum stands still: who is left knows that there is a cluster.
    zero.kill();
    one.kill();
    zero.data_dir = folder.path().join("empty");
    zero.launch_with(NAMED);
    zero.wait_says("to join their cluster").await;
    assert!(was_to_join(&zero));
    one.launch_with(NAMED);
    one.wait_ready().await;
    assert_eq!(zero.ended().await.code(), Some(1));
    let log = zero.log();
    assert!(log.contains("there is a cluster: take begin.node out"), "{log}");
    assert!(log.contains("millrace broker replace-disk 0"), "{log}");
    // Now not even where nobody answers.
    zero.seeds = vec![free_address()];
    zero.launch_with(NAMED);
    zero.wait_says("to join their cluster").await;
    zero.kill();

    // Directories that were to begin one, too late.
    zero.seeds = vec![two.internal];
    for (name, told) in [
        ("formatted", "of another cluster"),
        ("opened", "in another one: empty it"),
    ] {
        zero.data_dir = folder.path().join(name);
        match name {
            "formatted" => format_only(&zero.data_dir, 0),
            _ => open_only(&zero.data_dir, 0).await,
        }
        zero.launch_with(NAMED);
        assert_eq!(zero.ended().await.code(), Some(1));
        assert!(zero.log().contains(told), "{}", zero.log());
    }
    assert_eq!(two.cluster().await.cluster_id, cluster_id);
}

#[tokio::test]
async fn who_is_not_named_never_begins() {
    let folder = tempfile::tempdir().unwrap();
    let formatted = folder.path().join("formatted");
    format_only(&formatted, 1);
    for data_dir in [folder.path().join("empty"), formatted] {
        let mut one = Node::new(&folder, 1, &[]);
        one.data_dir = data_dir;
        one.launch_with(NAMED);
        assert_eq!(one.ended().await.code(), Some(1));
        let log = one.log();
        assert!(
            log.contains("begin.node has broker 0") && log.contains("set seeds"),
            "{log}"
        );
        one.seeds.push(free_address());
        one.launch_with(NAMED);
        one.wait_says("to join their cluster").await;
        one.kill();
        assert!(!one.data_dir.join("__metadata-0").exists());
    }
}

#[tokio::test]
async fn a_cluster_that_is_known_is_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let mut zero = Node::new(&folder, 0, &[]);
    let flags = [NAMED, &["--set", "cluster.id=known"]].concat();
    zero.launch_with(&flags);
    assert_eq!(zero.ended().await.code(), Some(1));
    assert!(zero.log().contains("cluster.id is set"), "{}", zero.log());
    zero.seeds.push(free_address());
    zero.launch_with(&flags);
    zero.wait_says("to join their cluster").await;
    assert!(was_to_join(&zero));
}

/// Neither a crash between nor seeds that stand for nobody keep it from beginning, and others find it.
#[tokio::test]
async fn a_beginning_is_resumed_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let mut zero = Node::new(&folder, 0, &[]);
    open_only(&zero.data_dir, 0).await;
    zero.launch_with(&["--set", "begin.node=1"]);
    assert_eq!(zero.ended().await.code(), Some(1));
    assert!(zero.log().contains("begin.node has broker 1"), "{}", zero.log());
    let advertised = format!("advertised.internal.address={}", zero.internal);
    let nowhere = ["--set", "seeds=nobody.invalid:9651", "--set", advertised.as_str()];
    let flags = [NAMED, &nowhere].concat();
    zero.launch_with(&flags);
    zero.wait_ready().await;
    assert_eq!(zero.cluster().await.cluster_id, "just-formatted");
    assert!(!was_to_join(&zero));
    // It is the only voter, and nobody tells of another one.
    zero.kill();
    zero.launch_with(&flags);
    zero.wait_ready().await;
    let mut one = Node::new(&folder, 1, &[&zero]);
    one.launch_with(NAMED);
    one.wait_ready().await;
    one.wait_cluster("two brokers", |cluster| (0..2).all(|id| is_available(cluster, id)))
        .await;
    assert_eq!(one.cluster().await.cluster_id, "just-formatted");
}
