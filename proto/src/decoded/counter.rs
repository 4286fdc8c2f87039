//! Reading along the wire format, in whatever pieces it comes.

use prost::encoding::WireType;

use super::shape::{Content, Field, Shape};

/// What an allocation takes beside its bytes, and what small ones are rounded up by.
const ALLOCATION: usize = 32;

/// The longest varint (the wire format's rule).
const MAX_VARINT_LEN: u8 = 10;

/// Counts what a message takes in memory beside its own struct and the buffer that it came in, if
/// prost decodes it: lists, as large as they may get while they grow by doubling, and texts.
///
/// Where the bytes are no message it counts as far as prost decodes them, and no further.
#[derive(Clone, Debug)]
pub struct DecodedSize {
    shape: &'static Shape,
    /// The message and the messages inside it that the next byte is of; none: nothing more can be
    /// decoded.
    levels: Vec<Level>,
    /// Groups of unknown fields around the next byte. They hold nothing that is kept.
    groups: u32,
    step: Step,
    /// The varint that is being read, and how much of it was.
    varint: u64,
    varint_len: u8,
    /// How many bytes were read.
    at: u64,
    bytes: usize,
}

/// A message inside others.
#[derive(Clone, Copy, Debug)]
struct Level {
    shape: &'static Shape,
    /// Where it ends.
    end: u64,
    /// Which of its shape's lists have an item.
    begun: u64,
}

/// What the next byte is part of.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A field's key.
    Key,
    /// A number that nothing is kept of beside its message.
    Number,
    /// A field's length. The field's content, and its place among the shape's, if it has one.
    Length(Option<(usize, Content)>),
    /// Bytes of no interest, up to there.
    Skipped { until: u64 },
    /// A list of varints of so many bytes each in memory, up to there.
    Packed { until: u64, size: usize },
}

impl DecodedSize {
    /// Of a message of `length` bytes.
    #[must_use]
    pub fn new(shape: &'static Shape, length: usize) -> Self {
        let mut new = Self {
            shape,
            levels: Vec::with_capacity(4),
            groups: 0,
            step: Step::Key,
            varint: 0,
            varint_len: 0,
            at: 0,
            bytes: 0,
        };
        new.begin(length);
        new
    }

    /// Begins another message of the same type.
    pub fn begin(&mut self, length: usize) {
        self.levels.clear();
        self.groups = 0;
        self.begin_step(Step::Key);
        (self.at, self.bytes) = (0, 0);
        self.enter(self.shape, length as u64);
    }

    /// What the bytes that were read so far take decoded.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads the next bytes of the message. Those behind its end are not looked at.
    pub fn read(&mut self, mut piece: &[u8]) {
        while !self.levels.is_empty() && !piece.is_empty() {
            let used = match self.step {
                Step::Skipped { until } => {
                    let used = clamp(until - self.at, piece.len());
                    self.at += used as u64;
                    if self.at == until {
                        self.end_field();
                    }
                    used
                }
                Step::Packed { until, size } => {
                    let used = clamp(until - self.at, piece.len());
                    let numbers = piece.iter().take(used).filter(|byte| **byte < 0x80).count();
                    self.count(2usize.saturating_mul(size).saturating_mul(numbers));
                    self.at += used as u64;
                    if self.at == until {
                        self.end_field();
                    }
                    used
                }
                Step::Key | Step::Number | Step::Length(_) => self.read_varint(piece),
            };
            piece = piece.get(used..).unwrap_or_default();
        }
    }

    /// Reads a varint up to its end or the piece's; answers with how many bytes that is.
    fn read_varint(&mut self, piece: &[u8]) -> usize {
        // Most have one byte.
        if let (Some(byte @ 0..0x80), 0) = (piece.first(), self.varint_len) {
            self.at += 1;
            self.end_varint(u64::from(*byte));
            return 1;
        }
        let mut used = 0;
        for byte in piece {
            used += 1;
            self.at += 1;
            self.varint |= u64::from(byte & 0x7f) << (7 * self.varint_len);
            self.varint_len += 1;
            if *byte < 0x80 {
                self.end_varint(self.varint);
                break;
            }
            if self.varint_len == MAX_VARINT_LEN {
                self.levels.clear();
                break;
            }
        }
        used
    }

    fn end_varint(&mut self, value: u64) {
        match self.step {
            Step::Key => self.key(value),
            Step::Length(field) => self.length(field, value),
            Step::Number | Step::Skipped { .. } | Step::Packed { .. } => self.end_field(),
        }
    }

    fn begin_step(&mut self, step: Step) {
        self.step = step;
        (self.varint, self.varint_len) = (0, 0);
    }

    /// Nothing more can be decoded.
    fn fail(&mut self) {
        self.levels.clear();
    }

    fn count(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn key(&mut self, key: u64) {
        let Ok(key) = u32::try_from(key) else {
            return self.fail();
        };
        let (number, Ok(wire_type)) = (key >> 3, WireType::try_from(u64::from(key & 7))) else {
            return self.fail();
        };
        if number == 0 {
            return self.fail();
        }
        let field = self.field(number);
        match (wire_type, field) {
            (WireType::LengthDelimited, _) => {
                self.begin_step(Step::Length(field.map(|(at, field)| (at, field.content))));
            }
            (
                WireType::Varint,
                Some((
                    at,
                    Field {
                        content: Content::Varints(size),
                        ..
                    },
                )),
            ) => {
                self.count_item(at, size);
                self.begin_step(Step::Number);
            }
            // Not of the type that the field has.
            (_, Some(_)) => self.fail(),
            (WireType::Varint, None) => self.begin_step(Step::Number),
            (WireType::ThirtyTwoBit, None) => self.skip(4),
            (WireType::SixtyFourBit, None) => self.skip(8),
            (WireType::StartGroup, None) => {
                self.groups = self.groups.saturating_add(1);
                self.begin_step(Step::Key);
            }
            (WireType::EndGroup, None) => match self.groups.checked_sub(1) {
                Some(groups) => {
                    self.groups = groups;
                    self.end_field();
                }
                None => self.fail(),
            },
        }
    }

    /// The field of this number in the present message, and its place among its shape's.
    fn field(&self, number: u32) -> Option<(usize, Field)> {
        let level = self.levels.last().filter(|_| self.groups == 0)?;
        let mut fields = level.shape.fields.iter().enumerate();
        fields
            .find(|(_, field)| field.number == number)
            .map(|(at, field)| (at, *field))
    }

    fn length(&mut self, field: Option<(usize, Content)>, length: u64) {
        let whole = self.levels.first().map_or(0, |whole| whole.end);
        if length > whole.saturating_sub(self.at) {
            return self.fail();
        }
        let text = match length {
            0 => 0,
            length => usize::try_from(length).unwrap_or(usize::MAX).saturating_add(ALLOCATION),
        };
        match field {
            None => self.skip(length),
            Some((_, Content::Message(shape))) => self.enter(shape, length),
            Some((at, Content::Messages(shape))) => {
                self.count_item(at, shape.size);
                self.enter(shape, length);
            }
            Some((_, Content::Text)) => {
                self.count(text);
                self.skip(length);
            }
            Some((at, Content::Texts)) => {
                self.count_item(at, size_of::<String>());
                self.count(text);
                self.skip(length);
            }
            Some((at, Content::Varints(size))) => {
                // The list's beginning; its items are counted as they come.
                if length > 0 {
                    self.count_item(at, size);
                }
                self.begin_step(Step::Packed {
                    until: self.at + length,
                    size,
                });
                if length == 0 {
                    self.end_field();
                }
            }
        }
    }

    /// An item of a list. One that grows by doubling may be half empty, and begins with four places;
    /// so it never has more than two for each item and two more, also if it comes in several parts.
    fn count_item(&mut self, at: usize, size: usize) {
        let Some(level) = self.levels.last_mut() else { return };
        let bit = 1 << at;
        let first = level.begun & bit == 0;
        level.begun |= bit;
        let places: usize = if first { 4 } else { 2 };
        self.count(
            places
                .saturating_mul(size)
                .saturating_add(if first { ALLOCATION } else { 0 }),
        );
    }

    fn skip(&mut self, length: u64) {
        self.begin_step(Step::Skipped {
            until: self.at + length,
        });
        if length == 0 {
            self.end_field();
        }
    }

    fn enter(&mut self, shape: &'static Shape, length: u64) {
        self.levels.push(Level {
            shape,
            end: self.at + length,
            begun: 0,
        });
        self.end_field();
    }

    /// A field ends, and with it the messages that end there.
    fn end_field(&mut self) {
        self.begin_step(Step::Key);
        if self.groups > 0 {
            return;
        }
        while let Some(level) = self.levels.last()
            && self.at >= level.end
        {
            if self.at > level.end {
                return self.fail();
            }
            self.levels.pop();
        }
    }
}

/// `bytes`, at most `len`.
fn clamp(bytes: u64, len: usize) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).min(len)
}
