//! The example schemas describe the example events, all of them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use primal_core::table::Kind;
use primal_schemas::Schema;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Line {
    collection: String,
    data: Box<RawValue>,
}

fn examples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

#[test]
fn every_event_of_the_week_fits_its_schema_and_its_columns() {
    let mut schemas = BTreeMap::new();
    for name in ["flights", "weather", "airports", "planes", "airlines"] {
        schemas.insert(name, Schema::load(&examples().join(format!("schemas/{name}.json"))).unwrap());
    }
    let file = std::fs::File::open(examples().join("week.ndjson.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let mut count = 0;
    for line in text.lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        let schema = &schemas[line.collection.as_str()];
        schema.validate(line.data.get()).unwrap();
        let cells = schema.table().unwrap().cells(line.data.get()).unwrap();
        assert_eq!(cells.last(), Some(&primal_core::table::Cell::Null), "nothing is left over");
        count += 1;
    }
    assert_eq!(count, 23_094);
}

#[test]
fn columns_follow_the_order_and_the_types_of_the_schema() {
    let text = r##"{"properties": {"z": {"type": "integer"}, "a": {"type": ["number", "null"]}, "m": {"$ref": "#/$defs/m"},
        "o": {"type": "object"}, "any": true}, "$defs": {"m": {"type": "string", "format": "date-time"}}}"##;
    let table = Schema::parse("x.json", text).unwrap().table().unwrap();
    let columns: Vec<_> = table.columns().iter().map(|c| (c.name.as_str(), c.kind)).collect();
    let expected = [
        ("z", Kind::Integer),
        ("a", Kind::Number),
        ("m", Kind::Timestamp),
        ("o", Kind::Json),
        ("any", Kind::Json),
        ("_extra", Kind::Json),
    ];
    assert_eq!(columns, expected);
}

#[test]
fn what_is_wrong_is_named() {
    let schema = Schema::load(&examples().join("schemas/airlines.json")).unwrap();
    let violations = schema.validate(r#"{"carrier": 7}"#).unwrap_err().join("; ");
    assert!(violations.contains("/carrier") && violations.contains("name"), "{violations}");
    for (text, says) in [
        ("{", "not JSON"),
        (r#"{"type": 5}"#, "no schema"),
        (r#"{"properties": {"_x": {}}}"#, "_x"),
        (r#"{"properties": {"a": {}, "A": {}}}"#, "differ only in case"),
        ("{}", "no `properties`"),
    ] {
        let error = Schema::parse("x.json", text).and_then(|schema| schema.table()).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("x.json"), "{error}");
    }
}
