//! Messages of remote write 1.0 (<https://prometheus.io/docs/specs/prw/remote_write_spec/>), and names and texts in PromQL.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub(super) struct Label {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Sample {
    #[prost(double, tag = "1")]
    pub value: f64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
}

impl TimeSeries {
    /// A series without samples. Labels are sorted, and one that is empty is none.
    pub(super) fn new<'a>(name: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let label = |(name, value): (&str, &str)| Label { name: name.to_owned(), value: value.to_owned() };
        let mut labels: Vec<Label> = labels.into_iter().filter(|(_, value)| !value.is_empty()).map(label).collect();
        labels.push(label(("__name__", name)));
        labels.sort_unstable();
        TimeSeries { labels, samples: Vec::new() }
    }
}

impl WriteRequest {
    /// As the body of a request.
    pub(super) fn compressed(&self) -> Result<Vec<u8>, snap::Error> {
        snap::raw::Encoder::new().compress_vec(&self.encode_to_vec())
    }
}

/// A name that a metric or label may have: letters, digits and `_`, no digit first.
pub(super) fn sanitized(name: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let name: String = name.chars().map(fits).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// A text in PromQL; the escapes of JSON are among those that it has.
pub(super) fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A moment in PromQL's API: seconds since 1970.
pub(super) fn seconds(millis: i64) -> String {
    let (sign, millis) = (if millis < 0 { "-" } else { "" }, millis.unsigned_abs());
    format!("{sign}{}.{:03}", millis / 1_000, millis % 1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sanitized_name_is_one(name in any::<String>()) {
            let name = sanitized(&name);
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            prop_assert!(!name.starts_with(|c: char| c.is_ascii_digit()));
            prop_assert_eq!(sanitized(&name), name);
        }

        #[test]
        fn what_is_sent_comes_back(value in any::<f64>().prop_filter("equal to itself", |v| !v.is_nan()), at in any::<i64>(), tag in any::<String>()) {
            let mut series = TimeSeries::new("m", [("z", &*tag), ("a", "1"), ("none", "")]);
            series.samples.push(Sample { value, timestamp: at });
            let request = WriteRequest { timeseries: vec![series] };
            let bytes = snap::raw::Decoder::new().decompress_vec(&request.compressed().unwrap()).unwrap();
            prop_assert_eq!(WriteRequest::decode(&*bytes).unwrap(), request);
        }
    }

    #[test]
    fn labels_are_sorted_and_moments_have_milliseconds() {
        let series = TimeSeries::new("m", [("b", "2"), ("A", "1"), ("c", "")]);
        let labels: Vec<_> = series.labels.iter().map(|label| label.name.as_str()).collect();
        assert_eq!(labels, ["A", "__name__", "b"]);
        assert_eq!((seconds(1_357_041_600_001), seconds(-1_500)), ("1357041600.001".into(), "-1.500".into()));
    }
}
