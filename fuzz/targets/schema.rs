//! Any text as a JSON Schema, and any as a payload for it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use primal_schemas::Schema;

fuzz_target!(|input: (&str, &str)| {
    if let Ok(schema) = Schema::parse("s.json", input.0) {
        let _ = (schema.validate(input.1), schema.table().map(|table| table.cells(input.1)));
    }
});
