//! Any text as a config: accepted, or refused with its line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use primal_hub::Config;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::parse("hub.yaml", text, &|_| None) {
        assert!(error.line.is_some(), "{error}");
    }
});
