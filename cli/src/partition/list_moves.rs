//! `millrace partition moves`.

use millrace_client::Admin;

use crate::{
    moves::{Move, table},
    output::{OutputFormat, tell},
};

/// List the moves under way.
#[derive(Debug, clap::Args)]
pub struct MovesArgs {
    /// Only those of this topic.
    topic: Option<String>,
}

/// Lists them.
pub async fn run(args: MovesArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let moves = admin.list_reassignments(args.topic.as_deref()).await?;
    let moves: Vec<Move> = moves.into_iter().map(Move::from).collect();
    let text = match &moves[..] {
        [] => "no partition moves\n".to_owned(),
        moves => table(moves),
    };
    tell(format, &text, &moves)
}
