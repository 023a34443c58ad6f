//! Any bytes as the header block and value of a record: decoded or refused; a payload has one digest however it is spaced.
#![no_main]

use libfuzzer_sys::fuzz_target;
use primal_core::event::EventRef;
use primal_core::{Digest, Records, Timestamp};

fuzz_target!(|input: (&[u8], Option<&[u8]>, &[u8])| {
    let (key, value, headers) = input;
    let mut records = Records::new();
    records.push(0, Timestamp(0), Some(key), value, |block| block.extend_from_slice(headers));
    for record in records.iter() {
        if let Ok(event) = EventRef::decode(record) {
            let _ = (event.time(), event.primal(), event.kind());
            if let Ok(Some(payload)) = event.object() {
                assert_eq!(Digest::of_json(payload), Digest::of_json(&format!(" {payload} ")));
            }
        }
    }
});
