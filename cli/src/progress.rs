//! Signs that long work goes on, for a person who watches: a bar where it is known how much there is to do, a spinner
//! where it is not, and nothing where standard error is no terminal.

use std::{
    fmt,
    fs::File,
    io::{self, IsTerminal, Seek},
    os::fd::AsFd,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::output::count;

/// Between two turns of a spinner, and two looks at the time that is left.
const TICK: Duration = Duration::from_millis(200);

/// What is counted while work goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things of this name, in the plural.
    Things(&'static str),
    /// Hundredths of the parts of the work, of which no number is worth showing.
    Hundredths,
}

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Nobody watches.
    Hidden,
    /// Nobody knows how much there is to do.
    Spinner,
    /// So much there is to do.
    Bar(u64),
}

impl Look {
    fn of(is_watched: bool, total: Option<u64>) -> Self {
        match total {
            _ if !is_watched => Self::Hidden,
            None | Some(0) => Self::Spinner,
            Some(total) => Self::Bar(total),
        }
    }

    /// As indicatif writes them; `{rate}` is what goes on a second, in whole numbers.
    fn template(self, unit: Unit) -> String {
        match (self, unit) {
            (Self::Hidden, _) => String::new(),
            (Self::Spinner, Unit::Bytes) => "{spinner} {binary_bytes}, {binary_bytes_per_sec}{msg}".to_owned(),
            (Self::Spinner, Unit::Things(things)) => format!("{{spinner}} {{human_pos}} {things}, {{rate}}{{msg}}"),
            (Self::Spinner, Unit::Hundredths) => "{spinner}{msg}".to_owned(),
            (Self::Bar(_), Unit::Bytes) => {
                "[{bar:30}] {percent} % of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left{msg}".to_owned()
            }
            (Self::Bar(_), Unit::Things(things)) => {
                format!("[{{bar:30}}] {{percent}} % of {{human_len}} {things}, {{rate}}, {{eta}} left{{msg}}")
            }
            (Self::Bar(_), Unit::Hundredths) => "[{bar:30}] {percent} %, {eta} left{msg}".to_owned(),
        }
    }
}

/// The sign for work of which `total` is to be done, if that is known. It goes when it is dropped.
pub fn bar(total: Option<u64>, unit: Unit) -> ProgressBar {
    let look = Look::of(io::stderr().is_terminal(), total);
    let bar = match look {
        Look::Hidden => return ProgressBar::hidden(),
        Look::Spinner => ProgressBar::new_spinner(),
        Look::Bar(total) => ProgressBar::new(total),
    };
    if let Ok(style) = ProgressStyle::with_template(&look.template(unit)) {
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            // A bar has nobody to tell what can't be written.
            let _ = write!(out, "{}/s", count(state.per_sec().round() as u64));
        };
        bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
    }
    // At once: who started it shall see that something goes on.
    bar.tick();
    bar.enable_steady_tick(TICK);
    bar
}

/// A bar for work of which only is known how much is left: the most that ever was left is all of it.
pub struct Left {
    unit: Unit,
    most: u64,
    bar: Option<ProgressBar>,
}

impl Left {
    pub fn new(unit: Unit) -> Self {
        Self {
            unit,
            most: 0,
            bar: None,
        }
    }

    /// Shows that so much is left, and a word on it.
    pub fn show(&mut self, left: u64, message: &str) {
        self.most = self.most.max(left);
        let bar = self.bar.get_or_insert_with(|| bar(Some(self.most), self.unit));
        bar.set_length(self.most);
        bar.set_position(self.most - left);
        bar.set_message(format!("; {message}"));
    }
}

/// A bar for messages that are read from standard input: of its bytes, if it is a file, else of messages. None while
/// a person types them.
pub struct InputBar {
    bar: ProgressBar,
    by_bytes: bool,
}

impl InputBar {
    /// To be called before anything is read.
    pub fn new() -> Self {
        let input = io::stdin();
        let total = bytes_left(&input);
        let bar = match total {
            Some(_) => bar(total, Unit::Bytes),
            None if input.is_terminal() => ProgressBar::hidden(),
            None => bar(None, Unit::Things("messages written")),
        };
        Self {
            bar,
            by_bytes: total.is_some(),
        }
    }

    /// One more message is written, for which so many bytes of the input stand.
    pub fn written(&self, bytes: u64) {
        self.bar.inc(if self.by_bytes { bytes } else { 1 });
    }
}

/// The bytes that stand before the end of a regular file, from where it is read on; `None` of anything else, and of a
/// file that has none or does not say, as those below /proc.
fn bytes_left(input: &impl AsFd) -> Option<u64> {
    let mut file = File::from(input.as_fd().try_clone_to_owned().ok()?);
    let about = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let at = file.stream_position().ok()?;
    Some(about.len().saturating_sub(at)).filter(|left| *left > 0)
}

/// Whether what is written there goes into a regular file: else a person may see it, between the turns of a bar.
pub fn is_file(output: &impl AsFd) -> bool {
    let file = output.as_fd().try_clone_to_owned().map(File::from);
    file.and_then(|file| file.metadata()).is_ok_and(|about| about.is_file())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_bar_is_shown_to_who_watches_where_the_total_is_known() {
        for (is_watched, total, look) in [
            (false, Some(5), Look::Hidden),
            (false, None, Look::Hidden),
            (true, None, Look::Spinner),
            (true, Some(0), Look::Spinner),
            (true, Some(5), Look::Bar(5)),
        ] {
            assert_eq!(Look::of(is_watched, total), look, "{is_watched} {total:?}");
        }
    }

    #[test]
    fn a_bar_tells_the_total_the_rate_and_the_time_left() {
        for unit in [Unit::Bytes, Unit::Things("records"), Unit::Hundredths] {
            let template = Look::Bar(5).template(unit);
            for part in ["{bar:30}", "{percent} %", "{eta} left", "{msg}"] {
                assert!(template.contains(part), "{template}");
            }
            let spinner = Look::Spinner.template(unit);
            assert!(spinner.starts_with("{spinner}"), "{spinner}");
            for template in [template, spinner] {
                assert!(ProgressStyle::with_template(&template).is_ok(), "{template}");
            }
        }
        let bytes = Look::Bar(5).template(Unit::Bytes);
        assert!(bytes.contains("{binary_bytes_per_sec}") && bytes.contains("of {binary_total_bytes}"));
        let records = Look::Bar(5).template(Unit::Things("records"));
        assert!(records.contains("{rate}") && records.contains("of {human_len} records"));
        assert_eq!(Look::Hidden.template(Unit::Bytes), "");
    }

    #[test]
    fn the_most_that_was_left_is_all_of_it() {
        let mut work = Left::new(Unit::Hundredths);
        let shown = |work: &Left| {
            let bar = work.bar.as_ref().unwrap();
            (bar.position(), bar.length())
        };
        for (left, position, length) in [(200, 0, 200), (50, 150, 200), (300, 0, 300), (0, 300, 300)] {
            work.show(left, "some");
            // Under a test's standard error, which may be a terminal or not, the numbers are the same.
            assert_eq!(shown(&work), (position, Some(length)));
        }
    }

    #[test]
    fn a_regular_file_has_bytes_left_behind_where_it_is_read() {
        let path = std::env::temp_dir().join(format!("millrace-progress-{}", std::process::id()));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(bytes_left(&file), None, "an empty file");
        file.write_all(b"0123456789").unwrap();
        for (at, left) in [(0, Some(10)), (4, Some(6)), (10, None), (12, None)] {
            file.seek(io::SeekFrom::Start(at)).unwrap();
            assert_eq!(bytes_left(&file), left, "at {at}");
            assert_eq!(file.stream_position().unwrap(), at, "looking moves nothing");
        }
        assert!(is_file(&file));
        let (reader, writer) = io::pipe().unwrap();
        assert_eq!(bytes_left(&reader), None);
        assert!(!is_file(&writer));
    }
}
