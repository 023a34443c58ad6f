//! JSON Schema files: validation of payloads, and the columns that a schema means.
