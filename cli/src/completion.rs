//! `millrace completion`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{args::Cli, error::OutputError, output::print};

/// Print a completion script for a shell.
///
/// For bash: `source <(millrace completion bash)`. For zsh: put the output in a file `_millrace`
/// in a directory of `$fpath`. For fish: `millrace completion fish | source`.
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionArgs) -> Result<(), OutputError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "millrace", &mut script);
    print(&String::from_utf8_lossy(&script))
}
