//! Where `millrace dev` keeps data.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// The file by which a formatted directory is known.
const IDENTITY_FILE: &str = "meta.properties";

/// The file that says which port the first of several brokers has. Hidden, so that `DIR/*` are the brokers.
const PORT_FILE: &str = ".dev-port";

/// Where data is, and whether it goes at the end.
pub enum DataDir {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl DataDir {
    /// The directory that was asked for, for so many brokers, or a temporary one.
    ///
    /// # Errors
    /// It can't be created, or holds the data of one broker where there shall be more, or the
    /// reverse.
    pub fn new(asked: Option<PathBuf>, brokers: u16) -> anyhow::Result<Self> {
        let Some(path) = asked else {
            let dir = tempfile::Builder::new().prefix("millrace-dev-").tempdir();
            return Ok(Self::Temporary(
                dir.context("can't create a temporary directory; name one with --data-dir")?,
            ));
        };
        std::fs::create_dir_all(&path).with_context(|| format!("can't create {}", path.display()))?;
        let is_one = is_formatted(&path);
        let is_many = is_formatted(&path.join("broker-0"));
        if brokers > 1 && is_one {
            bail!(
                "{} holds the data of a single broker: choose another directory",
                path.display()
            );
        }
        if brokers == 1 && is_many {
            bail!(
                "{} holds the data of several brokers: name their number with --brokers",
                path.display()
            );
        }
        Ok(Self::Kept(path))
    }

    /// Notes from which port on several brokers have theirs: they look for each other where they were before.
    ///
    /// # Errors
    /// They had others, or it can't be noted.
    pub fn keep_port(&self, port: u16) -> anyhow::Result<()> {
        let Self::Kept(path) = self else { return Ok(()) };
        let file = path.join(PORT_FILE);
        match std::fs::read_to_string(&file) {
            Ok(before) if before.trim() == port.to_string() => Ok(()),
            Ok(before) => bail!(
                "the brokers in {} had --port {} and look for each other there: name that port again, or another directory",
                path.display(),
                before.trim()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::write(&file, format!("{port}\n")).with_context(|| format!("can't write {}", file.display()))
            }
            Err(error) => Err(error).with_context(|| format!("can't read {}", file.display())),
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }

    /// The directory of one of `brokers` brokers.
    pub fn of_broker(&self, number: usize, brokers: usize) -> PathBuf {
        if brokers == 1 {
            self.path().to_owned()
        } else {
            self.path().join(format!("broker-{number}"))
        }
    }

    /// What is worth a newcomer's attention. Brokers that come and go together find each other missing, and warn of a
    /// directory that was not closed, which a new one never was.
    pub fn log_level(&self) -> &'static str {
        let is_new = std::fs::read_dir(self.path()).is_ok_and(|mut entries| entries.next().is_none());
        if is_new {
            "warn,millrace_server::serve=error,openraft=error,openraft::raft::raft_inner=off,millrace_server::controller::formation=error,millrace_server::controller::leave=error"
        } else {
            "warn,openraft=error,openraft::raft::raft_inner=off,millrace_server::controller::formation=error,millrace_server::controller::leave=error"
        }
    }

    pub fn end(self) -> anyhow::Result<()> {
        match self {
            Self::Kept(_) => Ok(()),
            Self::Temporary(dir) => {
                let path = dir.path().display().to_string();
                dir.close().with_context(|| format!("can't remove {path}"))
            }
        }
    }
}

/// Whether a broker has been here.
pub fn is_formatted(path: &Path) -> bool {
    path.join(IDENTITY_FILE).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_directory_goes_and_a_named_one_stays() {
        let temporary = DataDir::new(None, 1).unwrap();
        let path = temporary.path().to_owned();
        let new = temporary.log_level();
        std::fs::write(path.join("x"), "y").unwrap();
        assert_ne!(temporary.log_level(), new);
        temporary.end().unwrap();
        assert!(!path.exists());

        let parent = tempfile::tempdir().unwrap();
        let named = DataDir::new(Some(parent.path().join("a/b")), 1).unwrap();
        let path = named.path().to_owned();
        named.end().unwrap();
        assert!(path.is_dir());
    }

    #[test]
    fn brokers_that_keep_their_data_keep_their_port() {
        let dir = tempfile::tempdir().unwrap();
        let open = || DataDir::new(Some(dir.path().to_owned()), 3).unwrap();
        open().keep_port(9650).unwrap();
        open().keep_port(9650).unwrap();
        let error = open().keep_port(9750).unwrap_err().to_string();
        assert!(error.contains("had --port 9650"), "{error}");
        let temporary = DataDir::new(None, 3).unwrap();
        temporary.keep_port(9650).unwrap();
        temporary.keep_port(9750).unwrap();
    }

    #[test]
    fn the_data_of_one_broker_is_not_taken_for_that_of_many() {
        let dir = tempfile::tempdir().unwrap();
        let open = |brokers| DataDir::new(Some(dir.path().to_owned()), brokers);
        std::fs::write(dir.path().join(IDENTITY_FILE), "x").unwrap();
        assert!(open(3).is_err() && open(1).is_ok());
        std::fs::remove_file(dir.path().join(IDENTITY_FILE)).unwrap();
        std::fs::create_dir(dir.path().join("broker-0")).unwrap();
        std::fs::write(dir.path().join("broker-0").join(IDENTITY_FILE), "x").unwrap();
        assert!(open(1).is_err() && open(3).is_ok());
    }
}
