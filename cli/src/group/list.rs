//! `millrace group list`.

use millrace_client::{Admin, v1::GroupSummary};
use serde::Serialize;

use super::state;
use crate::output::{OutputFormat, TextTable, tell};

/// List groups by their ids.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only groups whose ids begin with this.
    #[arg(default_value = "")]
    prefix: String,
}

#[derive(Serialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Serialize)]
struct Group {
    group: String,
    state: &'static str,
    members: i32,
    coordinator: i32,
}

impl From<GroupSummary> for Group {
    fn from(group: GroupSummary) -> Self {
        Self {
            group: group.group,
            state: state(group.state),
            members: group.members,
            coordinator: group.coordinator_id,
        }
    }
}

/// Lists them.
pub async fn run(args: ListArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let listed = admin.list_groups(&args.prefix).await?;
    let groups: Vec<Group> = listed.into_iter().map(Group::from).collect();
    if groups.is_empty() && format == OutputFormat::Text {
        if args.prefix.is_empty() {
            eprintln!("There are no groups; one begins when its first member joins.");
        } else {
            eprintln!("There are no groups whose ids begin with {:?}.", args.prefix);
        }
        return Ok(());
    }
    tell(format, &table(&groups), &Groups { groups })
}

fn table(groups: &[Group]) -> String {
    let mut table = TextTable::new(&["GROUP", "STATE", "MEMBERS", "COORDINATOR"]).right(&[2]);
    for group in groups {
        table.row([
            group.group.clone(),
            group.state.to_owned(),
            group.members.to_string(),
            format!("broker {}", group.coordinator),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::GroupState;

    use super::*;

    #[test]
    fn a_line_for_each_group() {
        let group = |group: &str, state: GroupState, members| {
            Group::from(GroupSummary {
                group: group.into(),
                state: state.into(),
                members,
                coordinator_id: 0,
            })
        };
        let groups = [
            group("billing", GroupState::Stable, 12),
            group("old", GroupState::Empty, 0),
        ];
        assert_eq!(
            table(&groups),
            "GROUP     STATE    MEMBERS   COORDINATOR\n\
             billing   stable        12   broker 0\n\
             old       empty          0   broker 0\n"
        );
    }
}
