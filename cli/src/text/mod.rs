//! From bytes to messages and back: lines, separators, positions, output formats. Nothing
//! here calls anybody.

mod lines;
mod position;
mod record_format;
mod separator;

pub use lines::Lines;
pub use position::StartAt;
pub use record_format::{JsonBytes, RecordFormat, RecordView, RecordWriter};
pub use separator::{Splitter, header};
