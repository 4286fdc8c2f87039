//! Records by value, as tests make them up.

use crate::batch::{BatchBuilder, Header};

/// Names and values.
pub(crate) type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A record without its offset.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plain {
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

impl Plain {
    /// Its headers as builders take them.
    pub fn headers(&self) -> Vec<Header<'_>> {
        let headers = self.headers.iter().map(|(key, value)| Header {
            key,
            value: value.as_deref(),
        });
        headers.collect()
    }

    /// Appends it to a batch.
    pub fn append_to(&self, builder: &mut BatchBuilder) {
        let (key, value) = (self.key.as_deref(), self.value.as_deref());
        builder.append(self.timestamp, key, value, &self.headers()).unwrap();
    }
}
