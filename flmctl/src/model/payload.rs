//! How payloads look in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serializer;
use serde::ser::SerializeMap;

pub(super) fn common_data<S: Serializer>(data: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    payload(
        ["common_data", "common_data_text", "common_data_size"],
        data.as_deref(),
        false,
        serializer,
    )
}

pub(super) fn input<S: Serializer>(data: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    payload(
        ["input", "input_text", "input_size"],
        data.as_deref(),
        true,
        serializer,
    )
}

pub(super) fn output<S: Serializer>(data: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    payload(
        ["output", "output_text", "output_size"],
        data.as_deref(),
        true,
        serializer,
    )
}

/// A payload is up to three fields: base64, text if it is UTF-8 (else null), and the size if asked for.
fn payload<S: Serializer>(
    [data_key, text_key, size_key]: [&'static str; 3],
    data: Option<&[u8]>,
    with_size: bool,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry(data_key, &data.map(|data| STANDARD.encode(data)))?;
    map.serialize_entry(text_key, &data.and_then(|data| std::str::from_utf8(data).ok()))?;
    if with_size {
        map.serialize_entry(size_key, &data.map(<[u8]>::len))?;
    }
    map.end()
}
